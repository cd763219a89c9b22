#!/usr/bin/env bash
# An environment for whisperx, to measure against: it sees the packages of the project's own environment, so that both
# run the same CTranslate2, faster-whisper and PyTorch, and adds whisperx with what else it imports.
# Usage: whisperx_env.sh FOLDER [PYTHON of the project's environment, .venv/bin/python by default]
set -euo pipefail
folder=${1:?usage: whisperx_env.sh FOLDER [PYTHON]}
project=${2:-.venv/bin/python}
"$project" -m venv "$folder"
target=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$project" -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' >"$target/project.pth"
# Without requirements: they name an older PyTorch, and what is not needed for speech in memory.
"$folder/bin/pip" install -q --no-deps whisperx==3.8.6 pyannote-audio==4.0.7 pyannote-core pyannote-database \
    pyannote-metrics pyannote-pipeline pyannoteai-sdk asteroid-filterbanks pytorch-metric-learning torch-audiomentations \
    torch-pitch-shift julius primepy lightning pytorch-lightning lightning-utilities torchmetrics optuna colorlog \
    sortedcontainers omegaconf antlr4-python3-runtime einops transformers nltk
"$folder/bin/pip" install -q opentelemetry-exporter-otlp-proto-http

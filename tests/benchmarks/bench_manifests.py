"""The same steps over as many clips, here and over manifests as datatrove and NeMo take them: time and memory.

``python tests/benchmarks/bench_manifests.py FOLDER --datatrove PYTHON`` takes the corpus that ``bench_scale.py FOLDER``
wrote, writes a manifest of its clips beside it, a line of JSON each, and runs each step in a process of its own. PYTHON
is that of an environment with datatrove and orjson. Times are CPU seconds without imports, memory is with them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).parent
COLUMNS = (
    *("clip_id", "source", "duration_s", "text", "language", "speaker", "drop_reason", "snr_db", "avg_logprob"),
    *("chars_per_s", "bandwidth_hz"),
)
RECORDINGS_PER_FILE = 1000
OURS = {"count": ["stats", "stats"], "filter": ["refilter_snr"], "shards": ["plan", "plan"]}
"""Our steps for each step of a manifest: where there are two, the first makes what the second remembers."""
REMEMBERED = ("clip-index", "recording-index", "score-index-2")


def write_manifest(corpus: Path, folder: Path) -> None:
    """Write a line for each clip: which it is, its text and some of its scores."""
    folder.mkdir(parents=True)
    files = sorted(corpus.glob("clips/*/*.parquet"))
    for begin in range(0, len(files), RECORDINGS_PER_FILE):
        with (folder / f"{begin // RECORDINGS_PER_FILE:04d}.jsonl").open("w", encoding="utf-8") as lines:
            for path in files[begin : begin + RECORDINGS_PER_FILE]:
                for row in pq.ParquetFile(path).read(columns=list(COLUMNS), use_threads=False).to_pylist():
                    place = {"id": row.pop("clip_id"), "audio_filepath": str(path.relative_to(corpus))}
                    lines.write(json.dumps(place | {"duration": row.pop("duration_s")} | row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--datatrove", help="the Python of an environment with datatrove and orjson")
    options = parser.parse_args()
    manifest, environment = options.folder / "manifest", os.environ | {"OMP_NUM_THREADS": "1"}
    if not manifest.exists():
        write_manifest(options.folder / "corpus", manifest)
    size = sum(path.stat().st_size for path in manifest.iterdir())
    print(f"manifest: {size / 1e6:.0f} MB", flush=True)
    for remembered in options.folder.glob("corpus/state/source=*/*"):
        if remembered.name in REMEMBERED:
            shutil.rmtree(remembered)
    pythons = {"datatrove": options.datatrove, "nemo": sys.executable}
    for step, ours in OURS.items():
        for name in ours:
            command = [sys.executable, str(HERE / "bench_scale.py"), str(options.folder), "--one", name]
            subprocess.run(command, check=True, env=environment)
        for tool, python in pythons.items():
            if python:
                command = [python, str(HERE / "manifest_steps.py"), tool, step, str(options.folder)]
                subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()

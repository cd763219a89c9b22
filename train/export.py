"""What a bare machine needs to train, in one folder of a bounded size: packed mels, token shards, earlier stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triforce.ingest import storage
from triforce.models.release_files import STAGES, VOCODER, load_card


@dataclass(frozen=True)
class Exported:
    """What an export holds."""

    folder: Path
    num_bytes: int
    num_clips: int | None
    """Packed clips; None where no corpus was named."""
    whole: bool
    """Whether all clips found room."""


def export(
    folder: Path,
    *,
    corpus: str | None = None,
    tokens: str | None = None,
    release: str | None = None,
    max_bytes: int = 64 << 20,
    samples: bool = False,
) -> Exported:
    """Write ``release`` and ``tokens`` as they are, then as many of the corpus's clips as there is room for, as a pack
    with or without their sound.

    Raises ValueError where nothing is named, and where release and tokens alone are larger than ``max_bytes``.
    """
    if corpus is None and tokens is None and release is None:
        raise ValueError("nothing to export: name a corpus, tokens or a release")
    used = 0
    if release is not None:
        stages = [stage for stage in (*STAGES, VOCODER) if load_card(release, stage) is not None]
        if not stages:
            raise FileNotFoundError(f"{release}: no trained network here; leave --release out, or train one")
        used += sum(_copy(storage.join(release, stage), folder / "release" / stage) for stage in stages)
    if tokens is not None:
        if not storage.exists(storage.join(tokens, "index.json")):
            raise FileNotFoundError(f"{tokens}: no index.json here; run `triforce tokenize`")
        used += _copy(tokens, folder / "tokens")
    if used > max_bytes:
        raise ValueError(
            f"release and tokens take {used / 2**20:.1f} MiB, more than {max_bytes / 2**20:.1f}: raise --max-mib, or "
            "leave one of them out"
        )
    if corpus is None:
        return Exported(folder, used, None, whole=True)
    from triforce.train.data.packed.make import pack_corpus  # Arrow

    pack = pack_corpus(corpus, folder / "pack", samples=samples, max_bytes=max_bytes - used)
    used += sum(path.stat().st_size for path in pack.folder.iterdir())
    return Exported(folder, used, len(pack), whole=not pack.about["cut_short"])


def _copy(uri: str, target: Path) -> int:
    """Copy the files below a URI; return their bytes."""
    fs, root = storage.resolve(uri)
    total = 0
    for path in fs.find(root):
        place = target / path[len(root) :].lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(path, str(place))
        total += place.stat().st_size
    return total

"""Pack a corpus: encode each kept clip's mel once."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triforce.ingest.cores import num_cores
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.samples import FULL_SCALE
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.tokenize.read import decode_flac
from triforce.train.data.packed.pack import Pack, PackWriter, is_pack
from triforce.train.tasks.inputs import corpus_hash

COLUMNS = ["clip_id", "text", "speaker", "source", "licence", "words", "audio"]


def pack_corpus(
    corpus: str, folder: Path, mel: MelConfig | None = None, *, samples: bool = False, max_bytes: int | None = None
) -> Pack:
    """Write the kept clips of speech of a corpus as a pack, or return the one in ``folder`` where it holds just these
    clips at just these settings. With ``samples`` it holds the sound too; with ``max_bytes`` the first clips that fit.

    Raises ValueError where not one clip fits.
    """
    mel = mel or MelConfig()
    settings = f"{mel.model_dump_json()} {samples}" + (f" {max_bytes}" if max_bytes is not None else "")
    content = hashlib.sha256(f"{corpus_hash(corpus)} {settings}".encode()).hexdigest()
    if is_pack(folder) and (found := Pack(folder)).hash == content:
        return found
    writer = PackWriter(folder, mel, samples=samples)
    cut_short = False
    with ThreadPoolExecutor(num_cores()) as pool:
        for rows in (rows for uri in Corpus(corpus).clip_files() for rows in _row_groups(uri)):
            for (about, waveform), values in zip(rows, pool.map(lambda row: _mel(row[1], mel), rows), strict=True):
                if not cut_short:
                    cut_short = not writer.add(values, about, waveform if samples else None, max_bytes)
            if cut_short:
                break
    if not len(writer):
        raise ValueError(f"{corpus}: {max_bytes} bytes have room for no clip; allow more")
    writer.close(content, cut_short=cut_short)
    return Pack(folder)


def _row_groups(uri: str):
    import pyarrow.parquet as pq

    with overlay.open_file(uri) as file:
        parquet = pq.ParquetFile(file)
        names = [name for name in [*COLUMNS, "drop_reason", "modality"] if name in parquet.schema_arrow.names]
        for index in range(parquet.num_row_groups):
            rows = parquet.read_row_group(index, columns=names).to_pylist()
            kept = [row for row in rows if row["drop_reason"] is None and (row.get("modality") or "speech") == "speech"]
            yield [(_about(row), decode_flac(row["audio"]["bytes"], SAMPLE_RATE_HZ, "int16")) for row in kept]


def _about(row: dict[str, Any]) -> dict[str, Any]:
    about = {name: row.get(name) for name in ("clip_id", "text", "speaker", "source", "licence")}
    if row.get("words"):
        about["words"] = [[word["word"], word["start_s"], word["end_s"]] for word in row["words"]]
    return about


@torch.inference_mode()
def _mel(waveform: np.ndarray, mel: MelConfig) -> torch.Tensor:
    return log_mel(torch.from_numpy(waveform).float() / FULL_SCALE, mel)

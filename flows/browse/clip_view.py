"""One clip as a page shows it: its row, its sound or picture, its waveform and mel, its codes and their decode."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import MEDIA_COLUMNS, Clip
from triforce.ingest.corpus.store import Corpus

MAX_PEAKS = 1200
"""Columns of a waveform that is drawn. Assumed."""
LOUD = 4.0
"""Log-mel magnitude that is drawn brightest: speech at full scale is little over it. Assumed."""
REMEMBERED = 32
"""Clips whose decode is kept in memory, about half a megabyte each. Assumed."""
NOT_SHOWN = ("voice", *MEDIA_COLUMNS)
"""Columns that are no text: an embedding, and the media themselves."""


class Medium(NamedTuple):
    """Bytes that a browser shows or plays."""

    data: bytes
    media_type: str


class GoneError(Exception):
    """The clip is not where the catalogue saw it: the corpus has changed since."""


def read_row(corpus: Corpus, source: str, clip_id: str, row: int, columns: list[str] | None = None) -> dict[str, Any]:
    """Return the row of a clip, the ``row``-th of its file, by default every column but `NOT_SHOWN`.

    Raises GoneError where another clip is there, or none.
    """
    uri = corpus.clips_uri(source, clip_id.rpartition("-")[0])
    try:
        with overlay.open_file(uri) as file, pq.ParquetFile(file) as parquet:
            names = [name for name in parquet.schema_arrow.names if name not in NOT_SHOWN]
            group, first = _group_of(parquet, row)
            table = parquet.read_row_group(group, ["clip_id", *(columns or names)], use_threads=False)
            found = table.slice(row - first, 1).to_pylist()[0]
    except (FileNotFoundError, IndexError, pa.ArrowException) as error:
        raise GoneError(clip_id) from error
    if found["clip_id"] != clip_id:
        raise GoneError(clip_id)
    return found


def _group_of(parquet: pq.ParquetFile, row: int) -> tuple[int, int]:
    """Return the row group that a row is in, and its first row; raises IndexError where there is none."""
    first = 0
    for group in range(parquet.num_row_groups):
        size = parquet.metadata.row_group(group).num_rows
        if row < first + size:
            return group, first
        first += size
    raise IndexError(row)


def read_clip(corpus: Corpus, source: str, clip_id: str, row: int) -> Clip:
    """Return a clip with its medium and what is needed to show it. Raises as `read_row` does."""
    columns = ["recording_id", "source", "start_sample", "end_sample", "sample_rate_hz", "duration_s", "modality"]
    return Clip.from_row(read_row(corpus, source, clip_id, row, [*columns, *MEDIA_COLUMNS]))


def medium_of(clip: Clip) -> Medium:
    """Return what a browser shows of a clip: FLAC, PNG, and of a video a moving PNG, as no browser plays FFV1."""
    if clip.modality == "image":
        return Medium(clip.media, "image/png")
    if clip.modality == "video":
        from triforce.ingest.media.pixels import clip_pixels

        return Medium(moving_png(clip_pixels(clip), clip.sample_rate_hz), "image/png")
    return Medium(clip.media, "audio/flac")


def moving_png(planes: np.ndarray, frames_per_s: float) -> bytes:
    """Return ``(3, *size)`` floats from 0 to 1 as a PNG, of a video with all frames."""
    from PIL import Image

    from triforce.ingest.media.pixels import from_planes

    pixels = from_planes(planes)
    frames = [Image.fromarray(frame) for frame in (pixels if pixels.ndim == 4 else pixels[None])]
    more: dict[str, Any] = {}
    if len(frames) > 1:
        more = {"save_all": True, "append_images": frames[1:], "duration": 1000 / max(frames_per_s, 1), "loop": 0}
    buffer = io.BytesIO()
    frames[0].save(buffer, format="PNG", **more)
    return buffer.getvalue()


def waveform_of(clip: Clip) -> np.ndarray:
    """Return the samples of a clip of sound, ``(N,)`` float32. Raises ValueError where they cannot be decoded."""
    import soundfile

    try:
        return soundfile.read(io.BytesIO(clip.media), dtype="float32")[0]
    except soundfile.LibsndfileError as error:
        raise ValueError(f"clip {clip.clip_id} cannot be decoded ({error}): run `triforce corpus verify`") from error


def picture(waveform: np.ndarray) -> dict[str, Any]:
    """Return what is drawn of samples ``(N,)``: peaks of the waveform and the mel, by the models' front-end."""
    from triforce.models.audio.mel import MelConfig, log_mel

    config = MelConfig()
    mel = log_mel(waveform, config).numpy()
    return {"peaks": peaks(waveform), "mel": drawn_mel(mel, config.log_floor)}


def peaks(waveform: np.ndarray) -> list[list[int]]:
    """Return the lowest and highest sample of each stretch, -100 to 100."""
    columns = min(MAX_PEAKS, len(waveform))
    if not columns:
        return []
    edges = np.linspace(0, len(waveform), columns, endpoint=False).astype(np.int64)
    low, high = np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)
    return np.clip(np.rint(np.stack([low, high], axis=1) * 100), -100, 100).astype(int).tolist()


def drawn_mel(mel: np.ndarray, log_floor: float) -> dict[str, Any]:
    """Return a log-mel ``(num_mels, T)`` as bytes, the lowest bin first, from its floor to `LOUD`."""
    scaled = np.clip((mel - log_floor) / (LOUD - log_floor) * 255, 0, 255).astype(np.uint8)
    data = base64.b64encode(np.ascontiguousarray(scaled).tobytes()).decode("ascii")
    return {"num_mels": mel.shape[0], "num_frames": mel.shape[1], "data": data}


class Decoded(NamedTuple):
    """A clip's codes and what they decode to."""

    about: dict[str, Any]
    """``codes``, ``grid``, ``num_codes``, where they are from, and of sound the mel that they decode to."""
    medium: Medium


class Networks:
    """The dVAE of a release, and the shards that it made, where there are some; a clip at a time."""

    def __init__(self, release: str, tokens: str | None = None) -> None:
        """Raises ValueError for shards of another dVAE."""
        from triforce.models.release import Release
        from triforce.models.release_files import require_dvae
        from triforce.tokenize.plan import modality_of
        from triforce.tokenize.restore import check_release

        self.release, self.tokens = Release.load(release), tokens
        self.card = require_dvae(release).card
        self.modality = modality_of(self.card)
        if tokens is not None:
            check_release(tokens, self.release)
        self._turn = Lock()
        self._known: OrderedDict[str, Decoded] = OrderedDict()

    def decoded(self, clip: Clip) -> Decoded:
        """Return a clip's codes, from the shards or encoded now, and their decode. Raises ValueError for a clip of
        another medium than the dVAE's."""
        if (clip.modality or "speech") != self.modality:
            raise ValueError(f"clip {clip.clip_id} is {clip.modality or 'speech'}, the dVAE is for {self.modality}")
        with self._turn:
            if clip.clip_id not in self._known:
                self._known[clip.clip_id] = self._decode(clip)
            self._known.move_to_end(clip.clip_id)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return self._known[clip.clip_id]

    def _decode(self, clip: Clip) -> Decoded:
        import torch

        from triforce.ingest.media.pixels import PIXEL_MODALITIES
        from triforce.tokenize.read import prepare_clip

        medium = torch.from_numpy(prepare_clip(clip, self.card))
        codes, origin = self._codes(clip, medium)
        sizes = torch.tensor([medium.shape[1:]])
        restored = self.release.dvae.decode(torch.from_numpy(codes.astype(np.int64))[None], sizes)[0]
        about = {
            "codes": codes.ravel().tolist(),
            "grid": list(codes.shape),
            "num_codes": self.release.dvae.config.num_codes,
            "origin": origin,
        }
        if self.modality in PIXEL_MODALITIES:
            return Decoded(about, Medium(moving_png(restored.numpy(), clip.sample_rate_hz), "image/png"))
        from triforce.ingest.media.encode import encode_flac
        from triforce.ingest.media.samples import to_int16

        config = self.release.mel_config
        about["mel"] = drawn_mel(restored.numpy(), config.log_floor)
        about["seconds_per_code"] = config.hop_length * self.release.dvae.config.compression[0] / config.sample_rate_hz
        sound = encode_flac(to_int16(self.release.vocode(restored)), config.sample_rate_hz)
        return Decoded(about, Medium(sound, "audio/flac"))

    def _codes(self, clip: Clip, medium: Any) -> tuple[np.ndarray, str]:
        """Codes from the shards where the clip is in them, else encoded now."""
        from triforce.tokenize.restore import find_samples

        if self.tokens is not None:
            try:
                return find_samples(self.tokens, [clip.clip_id])[0].codes, "shards"
            except (ValueError, FileNotFoundError):
                pass
        return self.release.dvae.encode(medium[None])[0].cpu().numpy(), "encoded now"

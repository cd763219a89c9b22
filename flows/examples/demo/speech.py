"""The demo's speech: a folder of the user's, Debian's recorded telephone prompts, or a synthetic voice.

It becomes a list of `Prompt`: a short recording and, where known, its words. Some are held out: no network trains on
them, and all figures in the report come from them.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from triforce.flows.examples import debian, voice
from triforce.ingest.errors import Rejected
from triforce.ingest.media.decode import decode_float, probe_duration_s

logger = logging.getLogger(__name__)

AUDIO_ENDINGS = {
    ".aac", ".aif", ".aiff", ".flac", ".g722", ".m4a", ".mka", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".wav", ".webm",
}  # fmt: skip
MIN_PROMPT_S = 0.5
"""Shortest prompt: shorter ones are letters and clicks that Whisper cannot transcribe. Assumed."""
MIN_FOLDER_S, MIN_FOLDER_FILES = 120.0, 4
"""Least speech of a user's that suffices for three sites and a held-out set. Assumed."""
MAX_HELDOUT = 40
"""Most held-out prompts, as many as the list for Debian's prompts has."""


class NoSpeechError(ValueError):
    """No speech is available on this machine; the message says what to do."""


@dataclass(frozen=True)
class Prompt:
    """A short recording in a file, and its words: None where nobody wrote them down, "" where nothing is said."""

    name: str
    path: Path
    text: str | None
    duration_s: float

    def pieces(self) -> Iterator[np.ndarray]:
        """(T,) float32 mono at 24 kHz, in pieces."""
        return decode_float(self.path)

    def waveform(self) -> np.ndarray:
        """(T,) float32 mono at 24 kHz, whole."""
        return np.concatenate(list(self.pieces()))


@dataclass(frozen=True)
class SpeechDataset:
    """The demo's speech, for training and held out, and whose work it is."""

    training: list[Prompt]
    heldout: list[Prompt]
    origin: str
    author: str
    licence: str

    @property
    def training_s(self) -> float:
        """Length of the training prompts in seconds."""
        return sum(prompt.duration_s for prompt in self.training)


def obtain_speech(cache: Path, folder: Path | None = None) -> SpeechDataset:
    """Return the speech in ``folder`` where one is given, else Debian's prompts, else a synthetic voice's.

    ``cache`` keeps what was downloaded or synthesised. Raises NoSpeechError where none is available.
    """
    if folder is not None:
        return read_folder(folder)
    failures = []
    for source in (asterisk_prompts, voice_prompts):
        try:
            return source(cache)
        except (debian.DebianError, voice.VoiceError) as error:
            logger.info("%s", error)
            failures.append(str(error))
    raise NoSpeechError(
        f"no demo speech: {'; '.join(failures)}. Give your own with SPEECH=dir: a folder of audio files (wav, flac, "
        "mp3, ...), the text of each beside it as .txt if you have it"
    )


def asterisk_prompts(cache: Path) -> SpeechDataset:
    """Return half an hour of one voice's telephone prompts, with transcripts, from two Debian packages."""
    root = debian.unpack(["asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"], cache / "asterisk")
    sounds = root / "usr/share/asterisk/sounds/en_US_f_Allison"
    transcripts = (root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz").read_bytes()
    texts = parse_transcripts(gzip.decompress(transcripts).decode())
    names = sorted(path.relative_to(sounds).with_suffix("").as_posix() for path in sounds.rglob("*.g722"))
    # G.722 is 8 000 bytes a second at every rate mode that these files use.
    prompts = [
        Prompt(name, path := sounds / f"{name}.g722", texts.get(name), path.stat().st_size / 8000) for name in names
    ]
    held = set(heldout_names())
    return SpeechDataset(
        training=_usable([prompt for prompt in prompts if prompt.name not in held]),
        heldout=[prompt for prompt in prompts if prompt.name in held],
        origin="Debian package asterisk-core-sounds-en-g722",
        author="Allison Smith",
        licence="CC BY-SA 3.0",
    )


def heldout_names() -> list[str]:
    """Return the names of the prompts of Debian's packages that are held out."""
    return _resource("heldout.txt").split()


def _resource(name: str) -> str:
    return resources.files("triforce.flows.examples.demo").joinpath(name).read_text(encoding="utf-8")


def parse_transcripts(text: str) -> dict[str, str]:
    """Parse ``name: words`` lines, where ``;`` begins a comment; clean the words by `clean_transcript`."""
    rows = (line.partition(": ") for line in text.splitlines() if not line.startswith(";"))
    return {name.strip(): clean_transcript(words) for name, separator, words in rows if separator}


def clean_transcript(text: str) -> str:
    """Remove remarks in brackets and dots, which are not spoken, and doubled spaces."""
    text = re.sub(r"\([^)]*\)|\[[^\]]*\]|<[^>]*>", " ", text)
    return " ".join(re.sub(r"\.{2,}", " ", text).split())


def voice_prompts(cache: Path) -> SpeechDataset:
    """Return our own sentences in a synthetic voice."""
    sentences = [line.strip() for line in _resource("sentences.txt").splitlines() if line.strip()]
    paths = voice.synthesise(sentences, cache / "voice")
    prompts = [
        Prompt(path.stem, path, text, probe_duration_s(path)) for path, text in zip(paths, sentences, strict=True)
    ]
    training, heldout = hold_out(prompts)
    return SpeechDataset(training, heldout, origin="piper-tts, voice en_US-joe-medium", author="Joe", licence="CC0 1.0")


def read_folder(folder: Path) -> SpeechDataset:
    """Return the user's own recordings below ``folder``; a file that is no audio is left out with a warning."""
    if not folder.is_dir():
        raise ValueError(f"SPEECH={folder}: no such folder; give one with audio files (wav, flac, mp3, ogg, ...)")
    prompts = _usable(list(_folder_prompts(folder)))
    total_s = sum(prompt.duration_s for prompt in prompts)
    if len(prompts) < MIN_FOLDER_FILES or total_s < MIN_FOLDER_S:
        raise ValueError(
            f"SPEECH={folder}: {len(prompts)} audio files with {total_s:.0f} s in all, and the demo needs at least "
            f"{MIN_FOLDER_FILES} with {MIN_FOLDER_S:.0f} s; add recordings, or cut a long one up"
        )
    training, heldout = hold_out(prompts)
    return SpeechDataset(training, heldout, origin=str(folder), author="the speaker", licence="the user's own")


def _folder_prompts(folder: Path) -> Iterator[Prompt]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in AUDIO_ENDINGS or not path.is_file() or path.name.startswith("."):
            continue
        beside = path.with_suffix(".txt")
        text = " ".join(beside.read_text(encoding="utf-8").split()) if beside.is_file() else None
        try:
            duration_s = probe_duration_s(path)
        except Rejected as error:
            logger.warning("left out: %s", error.detail)
            continue
        yield Prompt(path.relative_to(folder).as_posix(), path, text, duration_s)


def hold_out(prompts: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Split into training and held-out prompts: every tenth or so is held out, `MAX_HELDOUT` at most."""
    count = max(1, min(MAX_HELDOUT, round(len(prompts) / 10)))
    held = {(2 * i + 1) * len(prompts) // (2 * count) for i in range(count)}
    return (
        [prompt for i, prompt in enumerate(prompts) if i not in held],
        [prompt for i, prompt in enumerate(prompts) if i in held],
    )


def _usable(prompts: list[Prompt]) -> list[Prompt]:
    """Return the prompts that are long enough and have words."""
    return [prompt for prompt in prompts if prompt.duration_s >= MIN_PROMPT_S and prompt.text != ""]


def shuffled(prompts: list[Prompt]) -> list[Prompt]:
    """Return the prompts in an order that depends on the names alone, so that each site gets some of every kind."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.name.encode()).digest())

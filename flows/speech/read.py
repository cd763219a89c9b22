"""A whole book as one sound file with chapters: spoken piece by piece into a work folder, then joined.

Each piece is a file, written whole; pieces are spoken in groups that the plan fixes. So a run that was killed goes on
where it was, and ends with the bytes of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field, field_validator
from tqdm import tqdm

from triforce.flows.speech.books.book import Book
from triforce.flows.speech.books.read_file import read_book_file
from triforce.flows.speech.cover import Cover, fit_cover
from triforce.flows.speech.loudness import faded, silence
from triforce.flows.speech.sentences import MAX_CHARS, split_spoken
from triforce.flows.speech.speaker import SpeakConfig, Speaker, Utterance
from triforce.ingest import storage
from triforce.ingest.media.encode import encode_flac, int16_frames
from triforce.models.release import Release
from triforce.train.evaluate.judge import JudgeConfig

logger = logging.getLogger(__name__)

Pause = Literal["part", "sentence", "paragraph", "chapter"]
PAUSES_S: dict[Pause, float] = {"part": 0.12, "sentence": 0.35, "paragraph": 0.8, "chapter": 2.0}
SENTENCE_ENDS = frozenset(".!?…\"'”’)»。！？」』）؟।")

TRIES = 3
"""Attempts at most at a piece of a book."""
LISTENER: dict[str, Any] = {"model": "tiny.en", "compute_type": "int8", "gap_s": 0.4}
"""Who listens to a book: larger Whispers take most of the time, and what is heard only decides what is said again."""


class ReadConfig(BaseModel):
    """How a book is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Seed; another number gives other utterances.")
    language: str | None = Field(
        None,
        pattern="^[a-z]{2,3}$",
        description="ISO 639 code: how sentences end and figures are said. None: the book's own.",
    )
    max_chars: int = Field(
        MAX_CHARS, ge=40, le=1000, description="Characters above which a sentence is spoken in parts."
    )
    group: int = Field(
        32,
        ge=1,
        le=256,
        description="Pieces that are spoken, transcribed and stored together; 16 of them are drawn side by side.",
    )
    pauses_s: dict[Pause, float] = Field(
        default_factory=lambda: dict(PAUSES_S),
        description="Silence after a piece, by what ends with it. Seconds.",
    )
    narrator: str = Field("Triforce", description="Who reads, as players show it.")
    bit_rate: int = Field(64_000, ge=16_000, le=320_000, description="Bit rate of the AAC, bits a second.")
    speak: SpeakConfig = SpeakConfig(tries=TRIES, judge=JudgeConfig(**LISTENER))

    @field_validator("speak", mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Fields of ``speak`` that are not given are those of a book; the listener of a book knows English alone."""
        if not isinstance(given, Mapping):
            return given
        judge = given.get("judge", {})
        if isinstance(judge, Mapping) and judge.get("language", "en") == "en":
            judge = LISTENER | dict(judge)
        return {"tries": TRIES, **given, "judge": judge}


@dataclass(frozen=True)
class Piece:
    """A part of the text that is spoken at once, and what ends with it."""

    chapter: int
    text: str
    ends: Pause


@dataclass(frozen=True)
class ReadSummary:
    """The file that was written and where words went wrong."""

    out: str
    num_pieces: int
    num_chapters: int
    duration_s: float
    wrong: list[dict[str, Any]]
    """Pieces of which Whisper still transcribes other words, and those without a known character: number, chapter,
    text, heard, error."""


def read_book(
    book_path: Path,
    out: Path,
    release: Release,
    *,
    voices: Sequence[np.ndarray] = (),
    config: ReadConfig | None = None,
) -> ReadSummary:
    """Read the book at ``book_path`` into the ``.m4b`` file ``out``; what is in ``<out>.work`` already is kept."""
    config = config or ReadConfig()
    if out.suffix.lower() not in (".m4b", ".m4a"):
        raise ValueError(f"{out}: a book becomes an .m4b")
    book = read_book_file(book_path)
    pieces = plan(book, config)
    speak = config.speak.model_copy(update={"language": _language(book, config)})
    speaker = Speaker(release, speak, voices=voices)
    work = out.with_name(f"{out.name}.work")
    _open_work(work, _key(release, speaker, pieces, config))
    _speak_missing(work, speaker, pieces, config)
    rows = [json.loads(_path(work, number, "json").read_text("utf-8")) for number in range(len(pieces))]
    sounds = [_path(work, number, "flac") for number in range(len(pieces))]
    duration_s = write_m4b(out, book, pieces, sounds, release.sample_rate_hz, config)
    wrong = [
        {"piece": number, "chapter": book.chapters[piece.chapter].title} | row | {"text": row["text"] or piece.text}
        for number, (piece, row) in enumerate(zip(pieces, rows, strict=True))
        if not row["text"] or (row["error"] or 0.0) > config.speak.max_error
    ]
    summary = ReadSummary(str(out), len(pieces), len(book.chapters), round(duration_s, 2), wrong)
    report = json.dumps(asdict(summary), indent=1, ensure_ascii=False)
    storage.write_bytes(work / "report.json", report.encode("utf-8", "surrogateescape"))  # a name as the disk has it
    return summary


def plan(book: Book, config: ReadConfig) -> list[Piece]:
    """Return the pieces of a book, in order."""
    language = _language(book, config)
    pieces: list[Piece] = []
    for number, chapter in enumerate(book.chapters):
        for paragraph in chapter.paragraphs:
            parts = split_spoken(paragraph, language, config.max_chars)
            pieces += [Piece(number, part, "sentence" if part[-1] in SENTENCE_ENDS else "part") for part in parts]
            if parts:
                pieces[-1] = Piece(number, pieces[-1].text, "paragraph")
        if pieces and pieces[-1].chapter == number:
            pieces[-1] = Piece(number, pieces[-1].text, "chapter")
    if not pieces:
        raise ValueError(f"{book.title!r}: no words to read in it")
    return pieces


def _language(book: Book, config: ReadConfig) -> str:
    return config.language or config.speak.language or book.language


def _key(release: Release, speaker: Speaker, pieces: Sequence[Piece], config: ReadConfig) -> str:
    """Return a hash of all that decides the sound."""
    info = release.info()
    hashes = {name: stage["hash"] for name, stage in info["stages"].items()} | {"vocoder": info["vocoder"]}
    voice = None if speaker.voice is None else hashlib.sha256(speaker.voice.tobytes()).hexdigest()
    shown = {"narrator"}  # beside the sound
    settings = config.model_dump(mode="json", exclude=shown)
    about = [hashes, release.drawn_in, voice, speaker.language, [asdict(piece) for piece in pieces], settings]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _open_work(work: Path, key: str) -> None:
    """The work folder for ``key``; what a run with another key left in it is removed."""
    marker = work / "key.txt"
    if marker.exists() and marker.read_text("utf-8") == key:
        return
    for path in sorted(work.glob("piece-*")):
        path.unlink()
    storage.write_bytes(marker, key.encode())


def _path(work: Path, number: int, kind: str) -> Path:
    return work / f"piece-{number:06d}.{kind}"


def _speak_missing(work: Path, speaker: Speaker, pieces: Sequence[Piece], config: ReadConfig) -> None:
    groups = [range(first, min(first + config.group, len(pieces))) for first in range(0, len(pieces), config.group)]
    lengths = [sum(len(pieces[number].text) for number in group) for group in groups]
    with tqdm(total=sum(lengths), desc="read", unit="char", dynamic_ncols=True) as bar:
        for group, length in zip(groups, lengths, strict=True):
            if all(_path(work, number, "json").exists() for number in group):
                bar.initial += length  # so that the time left is reckoned from what is spoken now
            else:
                texts = [pieces[number].text for number in group]
                utterances = speaker.speak_all(texts, [_seed(config.seed, number) for number in group])
                for number, utterance in zip(group, utterances, strict=True):
                    _store(work, number, utterance, speaker.release.sample_rate_hz)
            bar.update(length)


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _store(work: Path, number: int, utterance: Utterance, sample_rate_hz: int) -> None:
    """The sound, then the row that says that it is there."""
    # No FLAC opens without a sample.
    waveform = utterance.waveform if utterance.waveform.size else np.zeros(1, np.float32)
    storage.write_bytes(_path(work, number, "flac"), encode_flac(waveform, sample_rate_hz))
    row = {"text": utterance.text, "heard": utterance.heard, "error": utterance.error, "tries": utterance.tries}
    row |= {"seed": utterance.seed, "reached_end": utterance.reached_end}
    storage.write_bytes(_path(work, number, "json"), json.dumps(row, ensure_ascii=False).encode())


def write_m4b(
    out: Path, book: Book, pieces: Sequence[Piece], sounds: Sequence[Path], sample_rate_hz: int, config: ReadConfig
) -> float:
    """Join the pieces' ``sounds`` into AAC with chapter marks and cover; the length in seconds.

    The same in, the same out.
    """
    pauses = [silence(config.pauses_s.get(piece.ends, 0.0), sample_rate_hz) for piece in pieces]
    lengths = [
        soundfile.info(os.fsencode(sound)).frames + len(pause) for sound, pause in zip(sounds, pauses, strict=True)
    ]

    def joined() -> Iterator[np.ndarray]:
        for sound, pause in zip(sounds, pauses, strict=True):
            yield np.concatenate([faded(soundfile.read(os.fsencode(sound), dtype="float32")[0], sample_rate_hz), pause])

    cover = fit_cover(book.cover, book.title) if book.cover else None
    # The muxer "ipod" takes no picture; "mp4" writes the same, and the brand says what it is.
    brand = {"brand": "M4B " if out.suffix.lower() == ".m4b" else "M4A "}
    with (
        storage.atomic_file(out) as temporary,
        temporary.open("w+b") as file,  # FFmpeg takes no name that the locale cannot spell
        av.open(file, "w", format="mp4", options=brand) as container,
    ):
        container.flags |= int(av.container.Flags.bitexact.value)
        container.metadata.update(_about(book, config))
        stream: Any = container.add_stream("aac", rate=sample_rate_hz, layout="mono")
        stream.bit_rate = config.bit_rate
        picture = container.add_mux_stream("mjpeg", width=cover.width, height=cover.height) if cover else None
        container.set_chapters(_marks(book, pieces, lengths, sample_rate_hz))
        if cover and picture:
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(_still(cover, picture))
        for frame in int16_frames(joined(), sample_rate_hz):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sum(lengths) / sample_rate_hz


def _about(book: Book, config: ReadConfig) -> dict[str, str]:
    """What players show of a book; they take the composer for the narrator, and 2 as the kind of an audiobook."""
    author, year = book.author or "", str(book.year or "")
    about = {"title": book.title, "album": book.title, "artist": author, "album_artist": author, "date": year}
    about |= {"composer": config.narrator, "genre": "Audiobook", "media_type": "2"}
    return {name: value for name, value in about.items() if value}


def _still(cover: Cover, stream: Any) -> av.Packet:
    """The picture as the one packet of its stream."""
    packet = av.Packet(cover.jpeg)
    packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 90_000), True
    packet.pts = packet.dts = 0
    return packet


def _marks(book: Book, pieces: Sequence[Piece], lengths: Sequence[int], sample_rate_hz: int) -> list[Any]:
    """Chapters as PyAV takes them; one without a word to speak has no mark."""
    starts: dict[int, int] = {}
    position = 0
    for piece, length in zip(pieces, lengths, strict=True):
        starts.setdefault(piece.chapter, position)
        position += length
    return [
        {
            "id": number,
            "start": start,
            "end": end,
            "time_base": Fraction(1, sample_rate_hz),
            "metadata": {"title": book.chapters[number].title},
        }
        for (number, start), end in zip(starts.items(), [*starts.values(), position][1:], strict=True)
    ]

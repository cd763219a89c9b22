"""Little datasets, laid out as the real ones are, of sounds with known samples."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from corpora import sweep

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.ingest.media.encode import encode_flac, encode_mp3
from triforce.ingest.media.samples import to_int16

LENGTH_S = 3.5
"""Length of every sound, over the filters' least."""


def samples(seed: int, duration_s: float = LENGTH_S) -> np.ndarray:
    """``(N,) int16`` at the corpus rate, different for each seed."""
    return to_int16(sweep(duration_s, seed))


def write_sound(path: Path, seed: int, duration_s: float = LENGTH_S) -> np.ndarray:
    """Write a sound as FLAC, WAV or MP3, by the path's ending; return its samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = samples(seed, duration_s)
    if path.suffix == ".mp3":
        path.write_bytes(encode_mp3(sound / np.float32(32768), SAMPLE_RATE_HZ, 0.0))
    else:
        soundfile.write(path, sound, SAMPLE_RATE_HZ, subtype="PCM_16")
    return sound


def ljspeech(root: Path) -> dict[str, str]:
    """LJSpeech: quotes that are part of the text, abbreviations spelt out in the third column."""
    rows = {
        "LJ001-0001": ('He said, "No, not for me', 'He said, "No, not for me'),
        "LJ001-0002": ("Mr. Jones paid $5 to them all.", "Mister Jones paid five dollars to them all."),
        "LJ002-0001": ('"Who goes there, friend?"', '"Who goes there, friend?"'),
    }
    for seed, name in enumerate(rows):
        write_sound(root / "wavs" / f"{name}.wav", seed)
    lines = [f"{name}|{raw}|{plain}\n" for name, (raw, plain) in rows.items()]
    (root / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    (root / "README").write_text("The LJ Speech Dataset\nLicense: public domain\n")
    return {name: plain for name, (_, plain) in rows.items()}


def librispeech(root: Path) -> dict[str, str]:
    """LibriSpeech: ``LibriSpeech/<subset>/<reader>/<chapter>/``, with its lists and its licence."""
    texts = {}
    chapters = (("dev-clean", 84, 121123), ("dev-clean", 84, 121550), ("train-clean-100", 19, 198))
    for seed, (subset, reader, chapter) in enumerate(chapters):
        folder, lines = root / "LibriSpeech" / subset / str(reader) / str(chapter), []
        for number in range(2):
            name = f"{reader}-{chapter}-{number:04d}"
            write_sound(folder / f"{name}.flac", 10 * seed + number)
            texts[name] = f"GO DO YOU HEAR NUMBER {'ONE' if number else 'NOUGHT'}"
            lines.append(f"{name} {texts[name]}\n")
        (folder / f"{reader}-{chapter}.trans.txt").write_text("".join(lines))
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "19   | F | train-clean-100  | 25.19 | Kara Shallenberg\n"
        "84   | F | dev-clean        |  8.02 | Christie Nowak\n"
    )
    (root / "LibriSpeech" / "LICENSE.TXT").write_text("Attribution 4.0 International\n")
    return texts


def libritts(root: Path) -> dict[str, tuple[str, str]]:
    """LibriTTS: a text file an utterance, normalized and original."""
    texts = {}
    folder = root / "LibriTTS" / "dev-clean" / "84" / "121123"
    for number in range(2):
        name = f"84_121123_00000{number}_000000"
        write_sound(folder / f"{name}.wav", number)
        texts[name] = (f"Chapter {'one' if number else 'two'}, it was said.", f"CHAPTER {2 - number}, it was said.")
        for ending, text in zip(("normalized", "original"), texts[name], strict=True):
            (folder / f"{name}.{ending}.txt").write_text(text)
    (folder / "84_121123.trans.tsv").write_text("84_121123_000000_000000\tno\tno\n")
    return texts


COMMON_VOICE = (
    *("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age", "gender"),
    *("accents", "variant", "locale", "segment"),
)


def common_voice(root: Path) -> dict[str, str]:
    """Common Voice 17: ``cv-corpus-17.0-2024-03-15/sv-SE/``; what is validated holds the splits too."""
    folder = root / "cv-corpus-17.0-2024-03-15" / "sv-SE"
    texts = {
        "common_voice_sv-SE_1.mp3": 'Hon sade "nej" till dem alla.',
        "common_voice_sv-SE_2.mp3": '"Varför just det, då',
        "common_voice_sv-SE_3.mp3": "Äpplet faller inte långt.",
        "common_voice_sv-SE_4.mp3": "Det vet jag inte än.",
    }
    rows = {}
    for seed, (name, text) in enumerate(texts.items()):
        write_sound(folder / "clips" / name, seed)
        cells = [f"{seed % 2}" * 128, name, f"{seed:064x}", text, "", "2", "0", "twenties", "female_feminine", "", ""]
        rows[name] = "\t".join([*cells, "sv-SE", ""]) + "\n"
    names, head = list(rows), "\t".join(COMMON_VOICE) + "\n"
    for split, chosen in (("train", names[:2]), ("dev", names[2:3]), ("test", []), ("validated", names)):
        (folder / f"{split}.tsv").write_text(head + "".join(rows[name] for name in chosen), encoding="utf-8")
    (folder / "invalidated.tsv").write_text(head)
    (folder / "clip_durations.tsv").write_text("clip\tduration[ms]\n")
    return texts


def audio_folder(root: Path, table: str) -> dict[str, str]:
    """Hugging Face's audio folder, in two splits, with ``metadata.csv`` or ``metadata.jsonl`` in each."""
    texts = {}
    for seed, split in enumerate(("train", "test")):
        name = f"data/{split}-one.wav"
        write_sound(root / split / name, seed)
        texts[f"{split}/{name}"] = f'A line, with "quotes",\nand two lines of {split}.'
        row = {"file_name": name, "transcription": texts[f"{split}/{name}"], "speaker_id": str(seed)}
        with (root / split / table).open("w", encoding="utf-8", newline="") as file:
            if table.endswith(".csv"):
                writer = csv.DictWriter(file, row)
                writer.writeheader()
                writer.writerow(row)
            else:
                file.write(json.dumps(row) + "\n")
    (root / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Lines\n")
    return texts


def parquet(root: Path) -> dict[str, str]:
    """Hugging Face's Parquet, with the audio inside, in row groups of two."""
    texts = {f"u{number}": f"The line of number {'abc'[number]} again." for number in range(3)}
    rows = [
        {
            "id": name,
            "audio": {"bytes": encode_flac(samples(seed)), "path": f"{name}.flac"},
            "text": text,
            "speaker_id": 7 + seed,
            "license": "CC0 1.0" if seed else None,
        }
        for seed, (name, text) in enumerate(texts.items())
    ]
    (root / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "data" / "validation-00000-of-00001.parquet", row_group_size=2)
    return texts


def nemo(root: Path) -> None:
    """NeMo's manifest: a file as a whole, two parts of another that overlap, in no order of time."""
    write_sound(root / "audio" / "one.wav", 1)
    write_sound(root / "audio" / "talk.wav", 2, 12.0)
    talk = {"audio_filepath": "audio/talk.wav", "speaker": "ann", "lang": "en"}
    words = [{"word": "and", "start": 0.1, "end": 0.5}, {"word": "on", "start": 0.6, "end": 1.0}]
    rows = [
        {"audio_filepath": "audio/one.wav", "duration": LENGTH_S, "text": "this is a whole file"},
        talk | {"offset": 6.5, "duration": 4.25, "text": "the later part comes first"},
        talk | {"offset": 2.0, "duration": 5.0, "text": "and on it goes as before", "words": words},
    ]
    (root / "train_manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def lhotse_recording(name: str, duration_s: float, channels: tuple[int, ...] = (0,)) -> dict:
    return {
        "id": name,
        "sources": [{"type": "file", "channels": list(channels), "source": f"audio/{name}.wav"}],
        "sampling_rate": SAMPLE_RATE_HZ,
        "num_samples": round(duration_s * SAMPLE_RATE_HZ),
        "duration": duration_s,
        "channel_ids": list(channels),
    }


def lhotse_supervision(name: str, recording: str, start: float, duration: float, **more) -> dict:
    shared = {"id": name, "recording_id": recording, "start": start, "duration": duration, "channel": 0}
    return shared | {"text": f"the text of {name} it is", "language": "English", "speaker": "ann"} | more


def pack_lines(path: Path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

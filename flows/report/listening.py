"""``triforce listen``: a page on which a person compares systems by ear, blind and by the keyboard alone.

Two systems at a time say the same sentence, in random order; names are shown when all is judged, and the judgements
are saved as a JSON file. One file that opens without a network.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile

from triforce.flows.report.figures import data_uri
from triforce.flows.speech.loudness import level
from triforce.ingest import storage
from triforce.train.evaluate.results import LABELS, read_evaluation

PAGE = "listening_page.html"
SOUND_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
LEVEL_DB = -23.0
"""Level that all sounds are brought to, dB under full scale: of two, the louder is liked better."""


class ListeningSet(NamedTuple):
    """Sounds of systems, by system and sentence."""

    sounds: dict[str, dict[str, str]]
    """URIs of sound files, by the system's name and then the sentence's."""
    texts: dict[str, str]
    """What the sentences say, where it is known."""


def write_listening_page(
    folders: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    systems: Sequence[str] = (),
    trials: int = 24,
    seed: int = 0,
) -> str:
    """Write the page to ``out`` and return its place.

    ``folders`` are evaluations, of which each system is one, or hold a system's sounds, named as the sentences are.
    ``systems`` are those to compare, by default all. At most ``trials`` pairs are heard, each system about as often.
    Raises ValueError where fewer than two systems share a sentence.
    """
    found = find_sounds(folders)
    unknown = sorted(set(systems) - set(found.sounds))
    if unknown:
        raise ValueError(f"systems {', '.join(unknown)}: these folders have {', '.join(found.sounds)}")
    chosen = list(systems) or list(found.sounds)
    pairs = draw_pairs({name: set(found.sounds[name]) for name in chosen}, trials, seed)
    if not pairs:
        raise ValueError(
            f"systems {', '.join(chosen) or 'none'}: no sentence is there by two of them; name an evaluation, or "
            "folders whose files of one sentence have one name"
        )
    content = {
        "trials": [
            {
                "sentence": sentence,
                "text": found.texts.get(sentence, ""),
                "systems": both,
                "sounds": [_sound(found.sounds[system][sentence]) for system in both],
            }
            for sentence, *both in pairs
        ],
        "names": {name: LABELS.get(name, name) for name in chosen},
    }
    page = Path(__file__).with_name(PAGE).read_text(encoding="utf-8")
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    storage.write_bytes(out, page.replace("{{ CONTENT }}", data).encode())
    return os.fspath(out)


def find_sounds(folders: Sequence[str | os.PathLike]) -> ListeningSet:
    """Return the sounds below ``folders``; where two folders have a system of one name, the folder's name is added.

    Raises FileNotFoundError for a folder without any.
    """
    sounds: dict[str, dict[str, str]] = {}
    texts: dict[str, str] = {}
    for folder in folders:
        here: dict[str, dict[str, str]] = {}
        evaluation = read_evaluation(os.fspath(folder))
        for sample in evaluation.samples if evaluation else []:
            texts[sample["clip_id"]] = sample["text"]
            for system, about in sample["systems"].items():
                here.setdefault(system, {})[sample["clip_id"]] = storage.join(folder, about["audio"])
        if evaluation is None:
            files = sorted(path for path in Path(folder).glob("*") if path.suffix in SOUND_ENDINGS)
            here = {Path(folder).name: {path.stem: str(path) for path in files}} if files else {}
        if not here:
            raise FileNotFoundError(f"{os.fspath(folder)}: no evaluation with samples and no sound files are here")
        for system, of_system in here.items():
            name = f"{system}, {Path(folder).name}" if system in sounds else system
            sounds[name] = of_system
    return ListeningSet(sounds, texts)


def draw_pairs(sentences: dict[str, set[str]], trials: int, seed: int) -> list[tuple[str, str, str]]:
    """Return sentences with two systems that have them, in random order: every pair of systems as often as the next,
    and each of the two first as often as second.
    """
    generator = random.Random(seed)
    by_pair = []
    for pair in itertools.combinations(sentences, 2):
        shared = sorted(sentences[pair[0]] & sentences[pair[1]])
        generator.shuffle(shared)
        swap = generator.randrange(2)
        by_pair.append([(name, pair[(i + swap) % 2], pair[(i + swap + 1) % 2]) for i, name in enumerate(shared)])
    generator.shuffle(by_pair)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*by_pair))
    drawn = [trial for trial in rounds if trial is not None][:trials]
    generator.shuffle(drawn)
    return drawn


def _sound(uri: str) -> str:
    """Return the sound, at the common level, as FLAC in a data URI: a lossy format would add to what is judged."""
    waveform, rate = soundfile.read(io.BytesIO(storage.read_bytes(uri)), dtype="float32", always_2d=True)
    written = io.BytesIO()
    soundfile.write(written, level(waveform.mean(1), rate, LEVEL_DB), rate, format="FLAC", subtype="PCM_16")
    return data_uri(written.getvalue(), "audio/flac")

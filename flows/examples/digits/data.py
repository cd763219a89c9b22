"""Digits in three media: words, handwriting, and speech of synthesisers and of a person.

Handwriting is scikit-learn's copy of the UCI set, 1 797 grey images of 8 x 8. Speech comes from espeak-ng's formant
voices and flite's recorded ones at several speeds and pitches, and from the person whose prompts Debian packages.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from PIL import Image

from triforce.flows.examples import debian
from triforce.ingest.clips.make_clip import image_clip, sound_clip
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, TRANSCRIPT, Clip, Recording, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.decode import decode_float
from triforce.ingest.media.samples import to_int16
from triforce.train.data.order import is_validation

logger = logging.getLogger(__name__)

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ESPEAK_VOICES = tuple(
    f"{accent}+{variant}"
    for accent in ("en-us", "en-gb", "en-gb-x-rp")
    for variant in ("m1", "m3", "m5", "m7", "f1", "f2", "f4")
)
ESPEAK_SPEEDS, ESPEAK_PITCHES = (130, 160, 190), (35, 50, 65)
FLITE_VOICES = ("awb", "kal16", "rms", "slt")
FLITE_STRETCHES, FLITE_PITCHES = (0.85, 1.0, 1.2), (95, 130, 180)
MARGIN_S = 0.03
"""Silence left at both ends. Assumed."""
LARGEST_GREY = 16
"""Largest grey value of the handwriting set."""
NUM_SLANTED = 3
"""Slanted copies of each training image."""
MOST_SLANT = (12.0, 0.7, 0.4)
"""Largest turn of a copy in degrees, and its largest shift to the side and down in pixels. Assumed."""


class SynthesizerVoice(NamedTuple):
    """A voice, and the command that writes a WAV file of a word; None for the person, who is recorded."""

    name: str
    command: tuple[str, ...] | None


def voices() -> list[SynthesizerVoice]:
    """Return every synthetic voice, and the person."""
    found = [
        SynthesizerVoice(
            f"espeak-{voice}-{speed}-{pitch}",
            ("espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", "{path}", "{word}"),
        )
        for voice, speed, pitch in itertools.product(ESPEAK_VOICES, ESPEAK_SPEEDS, ESPEAK_PITCHES)
    ]
    for voice, stretch, pitch in itertools.product(FLITE_VOICES, FLITE_STRETCHES, FLITE_PITCHES):
        settings = ("--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={pitch}")
        found.append(
            SynthesizerVoice(
                f"flite-{voice}-{stretch}-{pitch}",
                ("flite", "-voice", voice, *settings, "-t", "{word}", "-o", "{path}"),
            )
        )
    return [*found, SynthesizerVoice("allison", None)]


def write_speech(corpus: Corpus, cache: Path, chosen: Sequence[SynthesizerVoice] | None = None) -> int:
    """Write a recording for each voice, by default all of `voices`, with a clip for each digit; return how many clips.

    A voice that is there already is left alone.
    """
    chosen = voices() if chosen is None else chosen
    for tool in ("espeak-ng", "flite"):
        if not shutil.which(tool):
            raise FileNotFoundError(f"no {tool} on this machine: apt-get install espeak-ng flite")
    known = corpus.clipped_ids("voices")
    missing = [voice for voice in chosen if _recording(voice).recording_id not in known]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the synthesisers are processes of their own
        for voice, spoken in zip(missing, pool.map(lambda voice: list(_spoken(voice, cache)), missing), strict=True):
            recording = _recording(voice)
            corpus.write_recording(recording)
            corpus.write_clips(recording, _spoken_clips(recording, spoken, voice.name))
    return len(chosen) * len(WORDS)


def _recording(voice: SynthesizerVoice) -> Recording:
    return Recording(
        recording_id=make_recording_id("voices", voice.name),
        source="voices",
        source_kind="synthetic" if voice.command else "file",
        source_id=voice.name,
        url=f"voice:{voice.name}",
        title=voice.name,
        author=voice.name if voice.command else "Allison Smith",
        licence=None if voice.command else "CC BY-SA 3.0",
    )


def _spoken(voice: SynthesizerVoice, cache: Path) -> Iterator[np.ndarray]:
    """Yield the ten digits in order, ``(N,)`` float32."""
    if voice.command is None:
        root = debian.unpack(["asterisk-core-sounds-en-g722"], cache / "asterisk-digits")
        folder = root / "usr/share/asterisk/sounds/en_US_f_Allison/digits"
        for digit in range(10):
            yield trimmed(np.concatenate(list(decode_float(folder / f"{digit}.g722"))))
        return
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{voice.name}.wav"
    for word in WORDS:
        command = [part.format(path=path, word=word) for part in voice.command]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        waveform, rate = soundfile.read(path, dtype="float32")
        yield trimmed(soxr.resample(waveform, rate, SAMPLE_RATE_HZ))
    path.unlink()


def trimmed(waveform: np.ndarray) -> np.ndarray:
    """Cut to the part from the first to the last loud moment, and scale to a peak of one half."""
    level = np.abs(waveform)
    loud = np.flatnonzero(level > 0.03 * level.max())
    margin = int(MARGIN_S * SAMPLE_RATE_HZ)
    part = waveform[max(0, loud[0] - margin) : loud[-1] + margin]
    return (0.5 * part / level.max()).astype(np.float32)


def _spoken_clips(recording: Recording, waveforms: Sequence[np.ndarray], speaker: str) -> Iterator[Clip]:
    start = 0
    for word, waveform in zip(WORDS, waveforms, strict=True):
        samples = to_int16(waveform)
        yield sound_clip(recording, start, samples, text=word, asr_model=TRANSCRIPT, language="en", speaker=speaker)
        start += len(samples)


def write_images(corpus: Corpus, validation_share: float) -> int:
    """Write the handwritten digits, a recording for each digit, and return how many images.

    Beside them are `NUM_SLANTED` slanted copies of each training image, against overfitting.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / LARGEST_GREY)).astype(np.uint8)
    known = corpus.clipped_ids("handwriting")
    generator, count = np.random.default_rng(0), 0
    for digit, word in enumerate(WORDS):
        real, slanted = _handwriting(digit, word, word), _handwriting(digit, f"{word}, slanted", word)
        images = list(grey[digits.target == digit])
        clips = list(_image_clips(real, word, images))
        trained_on = [
            image
            for clip, image in zip(clips, images, strict=True)
            if not is_validation(clip.clip_id, validation_share)
        ]
        copies = [slant(image, generator) for image in trained_on for _ in range(NUM_SLANTED)]
        # No copy is held out: prompts are real images
        rest = [
            clip for clip in _image_clips(slanted, word, copies) if not is_validation(clip.clip_id, validation_share)
        ]
        for recording, written in ((real, clips), (slanted, rest)):
            count += len(written)
            if recording.recording_id not in known:
                corpus.write_recording(recording)
                corpus.write_clips(recording, written)
    return count


def slant(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """``image`` ``(H, W)`` uint8 turned and moved a little, as the same hand would write it another time."""
    degrees, right, down = (float(generator.uniform(-most, most)) for most in MOST_SLANT)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle = np.array(image.shape[::-1]) / 2
    turn = np.array([[cos, sin], [-sin, cos]])
    start = middle - turn @ np.add(middle, (right, down))
    where = (cos, sin, start[0], -sin, cos, start[1])  # of each new pixel, its place in the old image
    turned = Image.fromarray(image).transform(
        image.shape[::-1], Image.Transform.AFFINE, where, Image.Resampling.BICUBIC
    )
    return np.asarray(turned)


def _handwriting(digit: int, name: str, word: str) -> Recording:
    return Recording(
        recording_id=make_recording_id("handwriting", name),
        source="handwriting",
        source_kind="array",
        source_id=name,
        url=f"sklearn:digits/{digit}",
        title=word,
        licence="CC BY 4.0",
    )


def _image_clips(recording: Recording, word: str, images: Sequence[np.ndarray]) -> Iterator[Clip]:
    for number, image in enumerate(images):
        yield image_clip(recording, number, image, text=word, asr_model=TRANSCRIPT)

"""A run in miniature for tests: real corpora, and a release of real, tiny, untrained networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from triforce.ingest import storage
from triforce.ingest.clips.make_clip import sound_clip
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, TRANSCRIPT, Recording, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.samples import to_int16
from triforce.models.audio.mel import MelConfig
from triforce.models.audio.vocos import Vocos, VocosConfig
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.release_files import require_dvae, stage_files
from triforce.models.text import TextTokenizer
from triforce.models.vocabulary import Modality, Vocabulary
from triforce.tokenize.actors import EncodeActor, ReadActor, WriteActor, planned_row
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.job import write_index
from triforce.tokenize.plan import extend_plan, open_tokens
from triforce.tokenize.shards import load_tokenizer

LEVELS = (4, 4, 4)


def write_release(
    folder: Path,
    *,
    seed: int = 0,
    stages: tuple[str, ...] = ("dvae", "gpt", "diffusion"),
    reads: bool = False,
    voices: bool = False,
) -> str:
    """Networks that load, encode and speak, if not to the point; with training curves as the trainer writes them.

    With ``reads`` the GPT reads phonemes word by word; with ``voices`` it knows voice prompts.
    """
    torch.manual_seed(seed)
    dvae = DVAE(DVAEConfig(hidden=16, stem=16, num_blocks=1, num_outer_blocks=0, fsq_levels=LEVELS))
    # In the range of log-mels, so that the vocoder is not asked for thunder.
    dvae.set_statistics(torch.full((100,), -2.5), torch.full((100,), 2.0))
    mel = MelConfig().model_dump(mode="json")
    files = {"dvae": stage_files("dvae", dvae.eval(), {"mel": mel, "steps": 20, "training_s": 61.0})}
    dvae_hash = json.loads(files["dvae"]["config.json"])["hash"]
    if "gpt" in stages:
        tokenizer = PhonemeTokenizer() if reads else TextTokenizer.train(["press one"], 256)
        modalities = (
            Modality(name="text", num_codes=tokenizer.size),
            Modality(name="speech", num_codes=int(np.prod(LEVELS))),
        )
        if reads:
            modalities += (Modality(name="reading", num_codes=64, shares="speech", interleaves="text"),)
        if voices:
            modalities += (Modality(name="voice", num_codes=64, shares="speech"),)
        vocabulary = Vocabulary(modalities=modalities)
        config = GPTConfig(vocabulary=vocabulary, num_layers=1, width=16, num_heads=2, pointer=reads)
        card = {"dvae_hash": dvae_hash, "steps": 20} | ({"layouts": ["text>reading"]} if reads else {})
        files["gpt"] = stage_files("gpt", GPT(config).eval(), card, tokenizer)
    if "diffusion" in stages:
        model = Diffusion(DiffusionConfig(hidden=16, num_blocks=1))
        files["diffusion"] = stage_files("diffusion", model.eval(), {"dvae_hash": dvae_hash, "steps": 20})
    if "vocoder" in stages:
        vocoder = Vocos(VocosConfig(hidden=16, inner=32, num_blocks=1))
        files["vocoder"] = stage_files("vocoder", vocoder.eval(), {"mel": mel, "steps": 20})
    for stage, named in files.items():
        curve = [
            {"step": step, "wall_s": step / 2, "train/loss": 3.0 / step, "train/learning_rate": 1e-4}
            | ({"eval/loss": 3.1 / step, "eval/perplexity": 10.0 + step} if step % 10 == 0 else {})
            for step in range(1, 21)
        ]
        lines = "".join(json.dumps(entry) + "\n" for entry in curve)
        storage.write_bytes(folder / stage / "metrics.jsonl", lines.encode())
        for name, data in named.items():
            storage.write_bytes(folder / stage / name, data)
    return str(folder)


def tokenize_here(config: TokenizeConfig) -> None:
    """Make all shards in this process, by the actors that Ray would start."""
    stage = require_dvae(config.release)
    open_tokens(config, stage)
    read = ReadActor(config.corpus, stage.card, load_tokenizer(config.tokens).to_json(), config.refine_times)
    encode, write = EncodeActor(config), WriteActor(config.tokens)
    for shard in extend_plan(config):
        write(encode(read(planned_row(shard))))
    write_index(config, stage, 1, 0.0)


def write_corpus(
    folder: Path,
    utterances: dict[str, np.ndarray],
    *,
    source: str = "heldout",
    title: str = "Prompts",
    drop_reasons: dict[str, str] | None = None,
) -> str:
    """One recording whose clips are ``{text: samples at 24 kHz}``, the texts being a person's."""
    corpus = Corpus(str(folder))
    recording = Recording(
        recording_id=make_recording_id(source, title),
        source=source,
        source_kind="file",
        source_id=title,
        url="file:///prompts",
        title=title,
        licence="CC0-1.0",
    )
    corpus.write_recording(recording)
    clips, start = [], 0
    for text, waveform in utterances.items():
        clips.append(
            sound_clip(
                recording,
                start,
                to_int16(waveform),
                text=text,
                asr_model=TRANSCRIPT,
                language="en",
                drop_reason=(drop_reasons or {}).get(text),
            )
        )
        start += waveform.size
    corpus.write_clips(recording, clips)
    return str(folder)


def hum(seconds: float, pitch_hz: float = 120.0, seed: int = 0) -> np.ndarray:
    """A buzz that swells and falls, ``(N,)`` float32 at 24 kHz: a sound for where words do not matter."""
    t = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    harmonics = sum(np.sin(2 * np.pi * pitch_hz * k * t) / k for k in range(1, 20))
    noise = np.random.default_rng(seed).normal(0, 0.01, t.size)
    return (0.1 * harmonics * (1 + np.sin(2 * np.pi * 3 * t)) + noise).astype(np.float32)

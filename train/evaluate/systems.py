"""The systems that are compared, from a clip or a text to sound: each adds one network to the one before."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np
import torch

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.tokenize.read import decode_flac
from triforce.train.evaluate.clips import clip_seed


class Output(NamedTuple):
    """The sound that a system made of a clip or a text."""

    waveform: np.ndarray
    """``(N,)`` float32 in -1 to 1, at the release's rate."""
    mel: np.ndarray
    """``(num_mels, T)`` float32 log-mel, as the system's last network gave it to the vocoder."""
    seconds: float
    """Time of the work from clip or text to sound."""
    reached_end: bool | None = None
    """TTS: whether the GPT ended by itself."""
    error: str | None = None


def run_systems(
    release: Release,
    clip: Clip,
    split: str,
    *,
    reads_aloud: bool,
    seed: int,
    sampling: SamplingConfig,
    sampler: SamplerConfig,
    min_chars_per_s: float,
) -> tuple[dict[str, Output], np.ndarray | None]:
    """Return a clip by the systems of its ``split``, and its codes.

    A clip of ``heldout`` is resynthesized, and read aloud as ``tts_unseen``; one of ``training`` is read aloud as
    ``tts_train`` and has no codes. The noise depends on ``seed`` and the clip alone.
    """
    own_seed = clip_seed(seed, clip.clip_id)
    outputs: dict[str, Output] = {}
    codes = None
    if split == "heldout":
        waveform = decode_flac(clip.media, SAMPLE_RATE_HZ)
        outputs, codes = resynthesize(release, waveform, clip.text, seed=own_seed, sampler=sampler)
    if reads_aloud:
        name = "tts_unseen" if split == "heldout" else "tts_train"
        outputs[name] = read_aloud(
            release, clip.text, seed=own_seed, sampling=sampling, sampler=sampler, min_chars_per_s=min_chars_per_s
        )
    return outputs, codes


@torch.inference_mode()
def resynthesize(
    release: Release, waveform: np.ndarray, text: str | None = None, *, seed: int, sampler: SamplerConfig
) -> tuple[dict[str, Output], np.ndarray]:
    """Return a clip by the systems ``original``, ``vocoder``, ``dvae`` and, if trained, ``diffusion``; and its codes.

    The mel of ``vocoder`` is computed again from its sound, since it was given the original's. A diffusion network that
    conditions on the GPT's latents gets those of the ``text`` and the codes, as it does when a text is read aloud.
    """
    started = time.perf_counter()
    mel = release.log_mel(waveform)
    mel_s = time.perf_counter() - started
    outputs = {"original": Output(waveform, _array(mel), 0.0)}

    rebuilt, vocoder_s = _vocode(release, mel, seed)
    outputs["vocoder"] = Output(rebuilt, _array(release.log_mel(rebuilt)), mel_s + vocoder_s)

    started = time.perf_counter()
    codes = release.encode(waveform)
    prior = release.decode(codes, mel.shape[-1])
    dvae_s = time.perf_counter() - started
    rebuilt, vocoder_s = _vocode(release, prior, seed)
    outputs["dvae"] = Output(rebuilt, _array(prior), dvae_s + vocoder_s)

    if release.diffusion is not None:
        started = time.perf_counter()
        restored = release.restore(prior, seed=seed, config=sampler, latents=release.latents(text, codes))
        diffusion_s = time.perf_counter() - started
        rebuilt, vocoder_s = _vocode(release, restored, seed)
        outputs["diffusion"] = Output(rebuilt, _array(restored), dvae_s + diffusion_s + vocoder_s)
    return outputs, codes


@torch.inference_mode()
def read_aloud(
    release: Release, text: str, *, seed: int, sampling: SamplingConfig, sampler: SamplerConfig, min_chars_per_s: float
) -> Output:
    """Speak ``text`` by GPT, dVAE, diffusion and vocoder.

    The speech is cut off where a voice of ``min_chars_per_s`` would long have ended. A text that the GPT refuses, being
    too long for it, gives an output without sound, with the error.
    """
    rate = release.info()["codes_per_second"]
    most = math.ceil(rate * (1.0 + len(text) / min_chars_per_s))
    sampling = sampling.model_copy(update={"max_codes": min(sampling.max_codes, most)})
    started = time.perf_counter()
    try:
        speech = release.speak(text, seed=seed, sampling=sampling, sampler=sampler)
    except ValueError as error:
        nothing = np.zeros((release.mel_config.num_mels, 0), np.float32)
        return Output(np.zeros(0, np.float32), nothing, time.perf_counter() - started, False, str(error))
    return Output(speech.waveform, speech.mel, time.perf_counter() - started, speech.reached_end)


def _vocode(release: Release, mel: torch.Tensor, seed: int) -> tuple[np.ndarray, float]:
    started = time.perf_counter()
    waveform = release.vocode(mel, seed=seed)
    return waveform, time.perf_counter() - started


def _array(mel: torch.Tensor) -> np.ndarray:
    return mel.float().cpu().numpy()

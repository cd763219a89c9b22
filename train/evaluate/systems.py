"""The ways from a clip or a text to sound that are compared: each adds one network to the one before."""

from __future__ import annotations

import hashlib
import math
import time
from typing import NamedTuple

import numpy as np
import torch

from triforce.models.release import Release
from triforce.models.samplers import SamplerConfig
from triforce.models.sampling import SamplingConfig


class Output(NamedTuple):
    """What a system made of a clip."""

    waveform: np.ndarray
    """``(N,)`` float32 in -1 to 1, at the release's rate."""
    mel: np.ndarray
    """``(num_mels, T)`` float32 log-mel, as the system's last network gave it to the vocoder."""
    seconds: float
    """Work from clip or text to sound."""
    reached_end: bool | None = None
    """TTS: whether the GPT ended by itself."""
    error: str | None = None


def clip_seed(seed: int, clip_id: str) -> int:
    """A seed of each clip's own, whatever else is evaluated: 31 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {clip_id}".encode()).digest()[:4], "big") >> 1


@torch.inference_mode()
def resynthesize(
    release: Release, waveform: np.ndarray, text: str | None = None, *, seed: int, sampler: SamplerConfig
) -> tuple[dict[str, Output], np.ndarray]:
    """A clip by the systems ``original``, ``vocoder``, ``dvae`` and, where it is trained, ``diffusion``; and its codes.

    The mel of ``vocoder`` is taken again from its sound, since what it was given is the true mel. A diffusion network
    that listens to the transformer's hidden states is told the ``text``, as it is when a text is read aloud.
    """
    started = time.perf_counter()
    true_mel = release.log_mel(waveform)
    mel_s = time.perf_counter() - started
    outputs = {"original": Output(waveform, _array(true_mel), 0.0)}

    rebuilt, vocoder_s = _vocode(release, true_mel, seed)
    outputs["vocoder"] = Output(rebuilt, _array(release.log_mel(rebuilt)), mel_s + vocoder_s)

    started = time.perf_counter()
    codes = release.encode(waveform)
    coarse = release.decode(codes, true_mel.shape[-1])
    dvae_s = time.perf_counter() - started
    rebuilt, vocoder_s = _vocode(release, coarse, seed)
    outputs["dvae"] = Output(rebuilt, _array(coarse), dvae_s + vocoder_s)

    if release.diffusion is not None:
        started = time.perf_counter()
        fine = release.restore(coarse, seed=seed, config=sampler, latents=release.latents(text, codes))
        diffusion_s = time.perf_counter() - started
        rebuilt, vocoder_s = _vocode(release, fine, seed)
        outputs["diffusion"] = Output(rebuilt, _array(fine), dvae_s + diffusion_s + vocoder_s)
    return outputs, codes


@torch.inference_mode()
def read_aloud(
    release: Release, text: str, *, seed: int, sampling: SamplingConfig, sampler: SamplerConfig, min_chars_per_s: float
) -> Output:
    """``text`` by GPT, dVAE, diffusion and vocoder, cut off where a voice of ``min_chars_per_s`` would long have ended.

    A text that the GPT refuses, being too long for it, is an output without sound, with the error.
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

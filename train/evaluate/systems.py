"""The systems that are compared, from a clip or a text to sound: each adds one network to the one before."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np
import torch

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip
from triforce.models.audio.vocoder import GriffinLim, Vocoder
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
    griffin_lim: bool = False,
) -> tuple[dict[str, Output], np.ndarray | None]:
    """Return a clip by the systems of its ``split``, and its codes; ``griffin_lim`` as in `resynthesize`.

    A clip of ``heldout`` is resynthesized, and read aloud as ``tts_unseen``; one of ``training`` is read aloud as
    ``tts_train`` and has no codes. The noise depends on ``seed`` and the clip alone.
    """
    own_seed = clip_seed(seed, clip.clip_id)
    outputs: dict[str, Output] = {}
    codes = None
    if split == "heldout":
        waveform = decode_flac(clip.media, SAMPLE_RATE_HZ)
        outputs, codes = resynthesize(
            release, waveform, clip.text, seed=own_seed, sampler=sampler, griffin_lim=griffin_lim
        )
    if reads_aloud:
        name = "tts_unseen" if split == "heldout" else "tts_train"
        outputs[name] = read_aloud(
            release, clip.text, seed=own_seed, sampling=sampling, sampler=sampler, min_chars_per_s=min_chars_per_s
        )
    return outputs, codes


@torch.inference_mode()
def resynthesize(
    release: Release,
    waveform: np.ndarray,
    text: str | None = None,
    *,
    seed: int,
    sampler: SamplerConfig,
    griffin_lim: bool = False,
) -> tuple[dict[str, Output], np.ndarray]:
    """Return a clip by the systems ``original``, ``vocoder``, ``dvae`` and, if trained, ``diffusion``; and its codes.

    The mel of ``vocoder`` is computed again from its sound, since it was given the original's. A diffusion network that
    conditions on the GPT's latents gets those of the ``text`` and the codes, as it does when a text is read aloud.
    ``griffin_lim`` adds the same mels through Griffin-Lim, as ``griffin_lim``, ``dvae_griffin_lim`` and so on.
    """
    vocoders: list[tuple[str, Vocoder]] = [("", release.vocoder)]
    if griffin_lim:
        vocoders.append(("_griffin_lim", GriffinLim(release.mel_config)))
    outputs: dict[str, Output] = {}

    def vocode(name: str, mel: torch.Tensor, before_s: float) -> None:
        for suffix, vocoder in vocoders:
            started = time.perf_counter()
            rebuilt = _array(vocoder(mel, seed=seed))
            seconds = before_s + time.perf_counter() - started
            shown = release.log_mel(rebuilt) if name == "vocoder" else mel
            label = "griffin_lim" if name + suffix == "vocoder_griffin_lim" else name + suffix
            outputs[label] = Output(rebuilt, _array(shown), seconds)

    started = time.perf_counter()
    mel = release.log_mel(waveform)
    outputs["original"] = Output(waveform, _array(mel), 0.0)
    vocode("vocoder", mel, time.perf_counter() - started)

    started = time.perf_counter()
    codes = release.encode(waveform)
    prior = release.decode(codes, mel.shape[-1])
    dvae_s = time.perf_counter() - started
    vocode("dvae", prior, dvae_s)

    if release.diffusion is not None:
        started = time.perf_counter()
        restored = release.restore(prior, seed=seed, config=sampler, **release.told(codes, text))
        vocode("diffusion", restored, dvae_s + time.perf_counter() - started)
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


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()

"""Sentences spoken in batches on one device: waveforms at 24 kHz, log-mels and the times of words.

All heavy work is on the device: the network, resampling, log-mel, quantisation. The host is waited for once a batch,
for the number of frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from triforce.flows.examples.piper.layout import Layout, lay_out
from triforce.flows.examples.piper.prepared import Marks, SpokenText
from triforce.flows.examples.piper.resample import resample
from triforce.flows.examples.piper.vits import HOP_LENGTH, SAMPLE_RATE_HZ, Prosody, Vits
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.train.data.packed.pack import HIGHEST_NATS

SPEAKER = "joe"


@dataclass(frozen=True)
class Manner:
    """How the voice varies, as ranges that each sentence's own manner is drawn from, uniformly.

    Little noise makes a voice clear and the same word the same; piper's own settings are 0.667, 0.8 and 1.
    """

    noise_scale: tuple[float, float] = (0.3, 0.667)
    """Standard deviation of the latents: of the sound."""
    noise_w: tuple[float, float] = (0.1, 0.6)
    """Standard deviation of the noise that durations come from."""
    length_scale: tuple[float, float] = (0.9, 1.15)
    """Factor of all durations."""

    def draw(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Return ``(num, 3)`` float32: a row of the three for each sentence."""
        low, high = np.array([self.noise_scale, self.noise_w, self.length_scale]).T
        return rng.uniform(low, high, (num, 3)).astype(np.float32)


STEADY = Manner((0, 0), (0, 0), (1, 1))
"""The same sound each time."""


@dataclass(frozen=True)
class SynthesisConfig:
    """How sentences are spoken and what is made of them."""

    manner: Manner = Manner()
    mel: MelConfig = field(default_factory=MelConfig)
    batch_size: int = 128
    rows: int = 16
    """Rows that the sentences of a batch share."""
    half: bool = False
    """Whether the decoder works in float16: for GPUs."""
    compile: bool = False
    """Whether the decoder is compiled: a minute or two before the first batch."""
    frames_multiple: int = 128
    """On a GPU, rows are rounded up to a multiple of frames, so that few shapes occur: cuDNN tries each once."""
    seed: int = 0

    @property
    def mel_low(self) -> float:
        """Lowest log-mel of the 8-bit scale."""
        return self.mel.log_floor


@dataclass(frozen=True)
class SpokenClip:
    """One sentence as it was spoken."""

    clip_id: str
    text: str
    words: list[tuple[str, float, float]]
    """Each word of the text with start and end in seconds."""
    source: str
    licence: str
    speaker: str = SPEAKER


@dataclass(frozen=True)
class SpokenBatch:
    """Sentences of a batch, end to end, on the device."""

    clips: list[SpokenClip]
    mels: torch.Tensor
    """``(sum of frames, num_mels)`` uint8; a log-mel is ``low + q * (high - low) / 255``."""
    num_frames: list[int]
    samples: torch.Tensor
    """``(sum of samples,)`` int16 at the mel's rate."""
    num_samples: list[int]

    def mel(self, number: int) -> torch.Tensor:
        """Return the quantised mel of one clip, ``(T, num_mels)`` uint8."""
        return self.mels.split(self.num_frames)[number]

    def waveform(self, number: int) -> torch.Tensor:
        """Return the samples of one clip, ``(N,)`` int16."""
        return self.samples.split(self.num_samples)[number]


class Synthesiser:
    """Speaks sentences in batches; the network is used as it is, on the device that it is on."""

    def __init__(self, network: Vits, marks: Marks, config: SynthesisConfig | None = None) -> None:
        self.network, self.marks, self.config = network, marks, config or SynthesisConfig()
        self.device = next(network.parameters()).device
        self.frames_multiple = self.config.frames_multiple if self.device.type == "cuda" else 1
        if self.config.half:
            network.dec.half()
        if self.config.compile:
            network.dec.compile()

    def __call__(self, texts: Sequence[SpokenText]) -> Iterator[SpokenBatch]:
        """Speak sentences in their order; a sentence's manner depends on its place alone."""
        config = self.config
        manners = config.manner.draw(np.random.default_rng(config.seed), len(texts))
        generator = torch.Generator(self.device).manual_seed(config.seed)
        for start in range(0, len(texts), config.batch_size):
            chosen = slice(start, start + config.batch_size)
            with torch.no_grad(), _exact_products():
                batch = self._batch(texts[chosen], manners[chosen], generator)
            yield batch

    def _batch(self, texts: Sequence[SpokenText], manners: np.ndarray, generator: torch.Generator) -> SpokenBatch:
        config = self.config
        ids, lengths = self._ids(texts)
        noise_scale, noise_w, length_scale = torch.from_numpy(manners).to(self.device).unbind(1)
        noise = torch.randn(len(texts), 2, ids.shape[1], generator=generator, device=self.device)
        prosody = self.network.prosody(ids, lengths, noise * noise_w[:, None, None], length_scale)
        durations = prosody.durations.cpu().numpy()  # the one wait of a batch
        layout = lay_out(durations, min(config.rows, len(texts)), self.frames_multiple)
        rows = self._speak(prosody, layout, noise_scale, generator)
        num_samples = durations.sum(1) * HOP_LENGTH
        waveforms = _cut(rows.flatten(), layout.starts * HOP_LENGTH, num_samples)
        waveforms = resample(waveforms, SAMPLE_RATE_HZ, config.mel.sample_rate_hz)
        waveforms = waveforms / waveforms.abs().amax(1, keepdim=True).clamp_min(1e-8)
        num_samples = -(-num_samples * config.mel.sample_rate_hz // SAMPLE_RATE_HZ)
        mels, num_frames = quantised_mels(waveforms, num_samples, config)
        samples = (waveforms * 32767).round().clamp(-32768, 32767).to(torch.int16)
        times = durations * (HOP_LENGTH / SAMPLE_RATE_HZ)
        clips = [
            SpokenClip(text.name, text.text, text.word_times(row[: text.num_ids]), text.source, text.licence)
            for text, row in zip(texts, times, strict=True)
        ]
        return SpokenBatch(clips, mels, num_frames.tolist(), _joined(samples, num_samples), num_samples.tolist())

    def _speak(
        self, prosody: Prosody, layout: Layout, noise_scale: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the samples of the layout's rows, ``(R, F * HOP_LENGTH)`` float32."""
        symbols = torch.from_numpy(layout.symbols).to(self.device)
        mask = torch.from_numpy(layout.mask).to(self.device)[:, None]
        mean = prosody.mean.transpose(1, 2).flatten(0, 1)[symbols]  # (R, F, C)
        std = prosody.log_std.exp().mul(noise_scale[:, None, None]).transpose(1, 2).flatten(0, 1)[symbols]
        noise = torch.randn(mean.shape, generator=generator, device=self.device)
        return self.network.speak((mean + std * noise).transpose(1, 2).contiguous(), mask).float()

    def _ids(self, texts: Sequence[SpokenText]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, T)`` ids and ``(B,)`` lengths on the device."""
        rows = [text.ids(self.marks) for text in texts]
        ids = np.full((len(rows), _round_up(max(map(len, rows)), 32)), self.marks.pad)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = values
        lengths = torch.tensor([len(row) for row in rows])
        return torch.from_numpy(ids).to(self.device), lengths.to(self.device)


def _cut(samples: torch.Tensor, starts: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Return the parts of ``(N,)`` samples as rows ``(B, longest)``, with zeros beyond their lengths."""
    device = samples.device
    first, last = (torch.from_numpy(each).to(device)[:, None] for each in (starts, starts + lengths))
    places = first + torch.arange(int(lengths.max()), device=device)
    return torch.where(places < last, samples[places.clamp_max(len(samples) - 1)], 0.0)


def quantised_mels(
    waveforms: torch.Tensor, num_samples: np.ndarray, config: SynthesisConfig
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the log-mels of ``(B, N)`` waveforms end to end, ``(sum of frames, num_mels)`` uint8, and their frames.

    Each row's is that of the row cut to ``num_samples``, reflected at its own end.
    """
    reach = config.mel.n_fft // 2
    lengths = torch.from_numpy(num_samples).to(waveforms.device)[:, None]
    padded = torch.nn.functional.pad(waveforms, (0, reach))
    places = torch.arange(padded.shape[1], device=waveforms.device)
    mirrored = torch.where(places < lengths, places, 2 * (lengths - 1) - places).clamp_min(0)
    mel = log_mel(padded.gather(1, mirrored), config.mel)
    scaled = (mel - config.mel_low) * (255 / (HIGHEST_NATS - config.mel_low))
    quantised = scaled.round().clamp(0, 255).to(torch.uint8).transpose(1, 2)
    num_frames = 1 + num_samples // config.mel.hop_length
    return _joined(quantised, num_frames), num_frames


def _joined(rows: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """Return the beginnings of rows ``(B, T, ...)`` of ``lengths``, end to end, without asking the device."""
    return torch.cat([row[:num] for row, num in zip(rows, lengths.tolist(), strict=True)])


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@contextmanager
def _exact_products() -> Iterator[None]:
    """Compute matrix products in full float32 (convolutions keep cuDNN's TF32) and let cuDNN choose by trying."""
    before, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.benchmark = benchmark

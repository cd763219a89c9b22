"""Codes to sound while they are being drawn: piece by piece, and yet the samples of the whole.

The dVAE's decoder, the mean of a diffusion network without attention and the Vocos vocoder are convolutions of a finite
reach, so a part that is computed with that much on both sides is what it is in the whole. What reaches further is
carried along: the turns of the voice's fundamental, and the noise. A sample is settled when all codes are known that it
depends on. Griffin-Lim and a diffusion network's samples look at all of an utterance: with them there is nothing to
stream.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from triforce.models.audio.vocos import Vocos, inverse_stft, source_phases, source_turns
from triforce.models.blocks.conditions import normal_by_position, told
from triforce.models.diffusion import Diffusion
from triforce.models.dvae import DVAE
from triforce.models.flow_samplers import SamplerConfig

HASTE = (2 / 5, 1 / 4, 3 / 4)
"""Shares of the decoder's, the diffusion network's and the vocoder's reach that are enough ahead for the first part of
a stream in haste. Measured on the voice that comes along: with 6 of 15 codes, 3 of 12 codes and 16 of 21 frames the mel
of the first 0.3 s is off by 0.004 nats on average, where the codes put it off by 0.3. That takes 21 codes; shares of
2/3, 1/2 and 3/4 take 28 and put it off by 0.0001, shares of 2/5, 1/4 and 1/2 take 20 and put it off by 0.014. What
follows differs in the phase of the fundamental, which is left to chance anyway."""


class CodeStream:
    """Decodes codes of one utterance and vocodes them, as they come.

    ``seed`` is of the vocoder's noise: on a CPU the samples are those of `Release.render` but for rounding. With
    another ``speed`` frames are taken from the mel at multiples of it; `Release.render` stretches it to a whole number.
    ``haste`` lets the first samples go when the shares `HASTE` of what they depend on are known: the sound is another
    one by little, and has no seam either. ``diffusion`` restores the decode by its mean, under the guidance of
    ``sampler``.
    """

    def __init__(
        self,
        dvae: DVAE,
        vocos: Vocos,
        *,
        seed: int = 0,
        speed: float = 1.0,
        haste: bool = False,
        diffusion: Diffusion | None = None,
        sampler: SamplerConfig | None = None,
    ) -> None:
        if not 0.25 <= speed <= 4:
            raise ValueError(f"speed {speed}: from 0.25 to 4")
        if dvae.config.num_dims != 1:
            raise ValueError(f"codes of {dvae.config.num_dims} axes: only those of one axis, time, are streamed")
        self.dvae, self.vocos, self.speed = dvae, vocos, speed
        self.device = vocos.window.device
        (code_reach,), (self.frames_per_code,) = dvae.config.decoder_reach, dvae.config.compression
        self.restorer = diffusion and _Restorer(diffusion, self.frames_per_code, seed, sampler or SamplerConfig())
        self.reach = (code_reach, self.restorer.reach if self.restorer else 0, vocos.config.reach)
        """What to either side a decode depends on, in codes, and its restoration, and sound, in frames."""
        self.ahead = self.reach
        """How many of them have to be known behind the next samples."""
        if haste:
            codes, restored, frames = (math.ceil(share * n) for share, n in zip(HASTE, self.reach, strict=True))
            self.ahead = (codes, restored, frames)
        self.overlap = -(-vocos.config.n_fft // (2 * vocos.config.hop_length))
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.codes = np.zeros(0, np.int64)
        self.num_decoded = 0
        """Codes whose frames are settled."""
        self.decoded = torch.zeros(1, vocos.config.num_mels, 0, device=self.device)
        """Frames at the codes' pace, restored, from ``first_decoded`` on."""
        self.first_decoded = 0
        self.mel = self.decoded
        """Frames at the asked speed from ``first_frame`` on."""
        self.first_frame = 0
        self.num_vocoded = 0
        """Frames up to which samples were returned."""
        self.turns = torch.zeros(1, 1, dtype=torch.float64, device=self.device)
        """Turns of the fundamental at the first frame of the next part."""
        self.noise = torch.zeros(1, 0, vocos.config.n_fft // 2 + 1, device=self.device)

    def codes_for(self, num_samples: int) -> int:
        """Return how many codes settle ``num_samples`` more than were returned."""
        frames = self.num_vocoded + -(-num_samples // self.vocos.config.hop_length)
        frames += self.overlap + self.ahead[2]
        return math.ceil((frames * self.speed + 1) / self.frames_per_code) + self.ahead[0] + self.ahead[1]

    @torch.inference_mode()
    def push(self, codes: np.ndarray, spoken: np.ndarray | None = None, *, last: bool = False) -> np.ndarray:
        """Return the samples ``(N,)`` float32 that more codes ``(K,)`` settle; with the last ones, all that remain.

        ``spoken`` ``(K,)`` are the pieces of text that are said in them, which a diffusion network may be told.
        """
        self.codes = np.concatenate([self.codes, np.asarray(codes, np.int64)])
        fresh = self._decode(last)
        if self.restorer:
            fresh = self.restorer.push(codes, spoken, fresh, self.ahead[1], last)
        self.decoded = torch.cat([self.decoded, fresh], 2)
        self._stretch()
        samples = self._vocode(last)
        if len(samples):
            self.ahead = self.reach
        return samples

    def _decode(self, last: bool) -> torch.Tensor:
        """Decode the codes whose frames are settled, and return these ``(1, num_mels, T)``."""
        reach, start, known = self.reach[0], self.num_decoded, len(self.codes)
        stop = known if last else max(start, known - self.ahead[0])
        if stop == start:
            return self.mel[:, :, :0]
        first = max(0, start - reach)
        window = torch.from_numpy(self.codes[first : min(known, stop + reach)]).to(self.device)[None]
        mel = self.dvae.decode(window)[:, :, (start - first) * self.frames_per_code :]
        self.num_decoded = stop
        return mel[:, :, : (stop - start) * self.frames_per_code].float()

    def _stretch(self) -> None:
        """Take frames at multiples of the speed, between the decoded ones, as far as these go."""
        if self.speed == 1:
            self.mel, self.decoded = torch.cat([self.mel, self.decoded], 2), self.decoded[:, :, :0]
            return
        known = self.first_decoded + self.decoded.shape[2]
        start = self.first_frame + self.mel.shape[2]
        stop = math.floor((known - 1) / self.speed) + 1
        if stop <= start:
            return
        places = torch.arange(start, stop, device=self.device, dtype=torch.float64) * self.speed - self.first_decoded
        below = places.long().clamp_max(self.decoded.shape[2] - 1)
        above = (below + 1).clamp_max(self.decoded.shape[2] - 1)
        between = torch.lerp(self.decoded[:, :, below], self.decoded[:, :, above], (places - below).float())
        self.mel = torch.cat([self.mel, between], 2)
        done = min(math.floor(stop * self.speed), known - 1) - self.first_decoded
        self.decoded = self.decoded[:, :, done:]
        self.first_decoded += done

    def _vocode(self, last: bool) -> np.ndarray:
        """Vocode the frames whose samples are settled."""
        config, reach = self.vocos.config, self.vocos.config.reach
        known, begin = self.first_frame + self.mel.shape[2], self.num_vocoded
        end = known - 1 if last else known - self.ahead[2] - self.overlap
        if end <= begin:
            return np.zeros(0, np.float32)
        start, stop = max(0, begin - self.overlap), min(known, end + self.overlap)
        first = max(0, start - reach)
        mel = self.mel[:, :, first - self.first_frame : min(known, stop + reach) - self.first_frame]
        spectrum = self.vocos.head(self.vocos.backbone(mel))[:, start - first : stop - first]
        spectrum = spectrum * self._source(mel, start - first, stop - first)
        samples = inverse_stft(spectrum, self.vocos.window, config.hop_length)[0]
        samples = samples[(begin - start) * config.hop_length : (end - start) * config.hop_length].clamp(-1, 1)
        self.num_vocoded = end
        keep = max(0, end - self.overlap - reach)
        self.mel = self.mel[:, :, keep - self.first_frame :]
        self.first_frame = keep
        return samples.cpu().numpy()

    def _source(self, mel: torch.Tensor, start: int, stop: int) -> torch.Tensor | float:
        """Return what the phases of the source turn the frames from ``start`` to ``stop`` by."""
        if self.vocos.pitch is None:
            return 1.0
        config = self.vocos.config
        found = self.vocos.pitch(mel)
        pitch = type(found)(found.log_bins[:, start:stop], found.voiced[:, start:stop])
        missing = (1, stop - start - self.noise.shape[1], config.n_fft // 2 + 1)
        fresh = torch.rand(missing, device=self.device, generator=self.generator)
        noise = torch.cat([self.noise, fresh], 1)
        turns = source_turns(pitch, config.n_fft, config.hop_length, self.turns)
        again = max(0, turns.shape[1] - 2 * self.overlap)
        self.turns, self.noise = turns[:, again : again + 1], noise[:, again:]
        phases = source_phases(pitch, turns, noise)
        return torch.complex(phases.cos(), phases.sin())


class _Restorer:
    """Restores a decode part by part by the mean of a diffusion network: what is settled is what it is in the whole."""

    def __init__(self, diffusion: Diffusion, frames_per_code: int, seed: int, sampler: SamplerConfig) -> None:
        self.diffusion, self.frames_per_code, self.sampler = diffusion, frames_per_code, sampler
        self.reach = -(-diffusion.config.reach // frames_per_code)
        """Codes to either side that a restored frame depends on."""
        self.generator = torch.Generator(diffusion.mean.device).manual_seed(seed)
        empty = diffusion.mean.new_zeros(1, diffusion.config.channels, 0)
        self.prior, self.noise = empty, empty
        """Frames from code ``first`` on."""
        self.tokens = torch.zeros(1, len(diffusion.config.token_sizes), 0, dtype=torch.int64, device=empty.device)
        """Tokens from code ``first`` on: of more codes than are decoded."""
        self.first = self.num_restored = 0

    def push(
        self, codes: np.ndarray, spoken: np.ndarray | None, prior: torch.Tensor, ahead: int, last: bool
    ) -> torch.Tensor:
        """Return the frames ``(1, C, T)`` that are settled by more codes ``(K,)`` and more of their decode."""
        if fresh := told(self.diffusion.config, codes, spoken):
            self.tokens = torch.cat([self.tokens, torch.stack(fresh)[None].to(self.tokens.device)], 2)
        self.prior = torch.cat([self.prior, prior], 2)
        self.noise = torch.cat([self.noise, normal_by_position(prior.shape, self.generator)], 2)
        per_code, start = self.frames_per_code, self.num_restored
        known = self.first + self.prior.shape[2] // per_code
        stop = known if last else max(start, known - ahead)
        if stop == start:
            return prior[:, :, :0]
        tokens = self.tokens[:, :, : known - self.first] if self.tokens.shape[1] else None
        made = self.diffusion.part_of_mean(self.prior, self.noise, tokens, self.sampler)
        made = made[:, :, (start - self.first) * per_code : (stop - self.first) * per_code]
        keep = max(0, stop - self.reach) - self.first
        self.prior, self.noise = self.prior[:, :, keep * per_code :], self.noise[:, :, keep * per_code :]
        self.tokens = self.tokens[:, :, keep:]
        self.first, self.num_restored = self.first + keep, stop
        return made

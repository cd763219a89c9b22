"""Sound that is made while codes come is the sound of the whole: no seam, for any size of the parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triforce.models.audio.streaming import CodeStream
from triforce.models.audio.vocos import NeuralVocoder, Vocos, VocosConfig
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.release import Release
from triforce.models.voice.bundled import has_voice

LEAST_DB = -50
"""Error over signal, both root mean square, under which parts count as the whole. Measured on the voice that comes
along: -62. Rounding of the pitch adds up in the turns, so that the phases of far harmonics drift by some 0.001 rad."""


def error_db(found: np.ndarray, whole: np.ndarray) -> float:
    assert len(found) == len(whole)
    return float(20 * np.log10(np.sqrt(((found - whole) ** 2).mean() / (whole**2).mean()) + 1e-12))


def streamed(stream: CodeStream, codes: np.ndarray, sizes: list[int], spoken: np.ndarray | None = None) -> np.ndarray:
    return np.concatenate(parts_of(stream, codes, sizes, spoken))


def parts_of(
    stream: CodeStream, codes: np.ndarray, sizes: list[int], spoken: np.ndarray | None = None
) -> list[np.ndarray]:
    def told(part: slice) -> np.ndarray | None:
        return None if spoken is None else spoken[part]

    parts, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        parts.append(stream.push(codes[part], told(part)))
        start += size
    rest = slice(start, None)
    return [*parts, stream.push(codes[rest], told(rest), last=True)]


@pytest.mark.skipif(not has_voice(), reason="the voice that comes along has no weights here")
def test_the_voice_that_comes_along_has_no_seams():
    release = Release.load()
    best = release.draw("The ferry leaves at noon, and nobody waits for it.", seed=3)[0]
    codes, spoken = best.codes, best.spoken
    assert len(codes) > 50
    whole, _ = release.render(codes, spoken=spoken, seed=7)
    for sizes in ([30, 7, 7, 14], [1] * len(codes), [], [len(codes)], [40, 1]):
        parts = parts_of(release.stream(seed=7), codes, sizes, spoken)
        found = np.concatenate(parts)
        assert error_db(found, whole) < LEAST_DB
        seams = np.cumsum([len(part) for part in parts])[:-1]
        steps, same = np.diff(found), np.diff(whole)
        assert all(abs(steps[seam - 1] - same[seam - 1]) < 2e-3 for seam in seams if 0 < seam < len(whole))
    hasty = release.stream(seed=7, haste=True)
    assert hasty.codes_for(7200) <= release.stream().codes_for(7200) - 12
    parts = parts_of(hasty, codes, [hasty.codes_for(7200), 12], spoken)
    first = len(parts[0])
    near, far = (release.log_mel(sound[:first]) for sound in (parts[0], whole))
    assert (near - far).abs().mean() < 0.01
    near, far = (release.log_mel(sound) for sound in (np.concatenate(parts), whole))
    assert (near - far).abs().mean() < 0.1  # the voice's fundamental goes on from another phase
    fast = streamed(release.stream(seed=7, speed=1.5), codes, [7] * 7, spoken)
    at_once = release.stream(seed=7, speed=1.5).push(codes, spoken, last=True)
    assert error_db(fast, at_once) < LEAST_DB
    assert len(fast) == pytest.approx(len(whole) / 1.5, abs=512)


@pytest.mark.parametrize("folded", [False, True])
def test_a_decoded_part_is_that_of_the_whole_and_needs_all_that_it_is_given(folded):
    """Every code within the reach counts: changing the outermost one changes the part, changing the next does not."""
    torch.manual_seed(0)
    settings = {"hidden": 16, "stem": 16, "num_blocks": 3, "num_outer_blocks": 2, "folded": folded}
    config = DVAEConfig(**settings, fsq_levels=(8, 8))
    dvae = DVAE(config).eval()
    for parameter in dvae.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    codes = torch.randint(0, 64, (1, 80), generator=torch.Generator().manual_seed(0))
    (reach,), part = config.decoder_reach, slice(4 * 40, 4 * 41)
    whole = dvae.decode(codes)[..., part]
    changes = []
    for distance in range(reach + 4):
        ends = []
        for place in (40 - distance, 40 + distance):
            other = codes.clone()
            other[0, place] = (other[0, place] + 27) % 64
            ends.append(float((dvae.decode(other)[..., part] - whole).abs().max()))
        changes.append(max(ends))
    assert max(changes[reach + 1 :]) == 0 < min(changes[: reach if folded else reach - 1])


@pytest.mark.parametrize("harmonics", [False, True])
def test_parts_of_any_network_fit_together(harmonics):
    torch.manual_seed(0)
    settings = {"hidden": 16, "stem": 16, "num_blocks": 3, "num_outer_blocks": 2}
    dvae = DVAE(DVAEConfig(**settings, fsq_levels=(8, 8))).eval()
    vocos = Vocos(VocosConfig(hidden=16, inner=32, num_blocks=2, harmonics=harmonics)).eval()
    for network in (dvae, vocos.backbone, vocos.head):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    codes = np.random.default_rng(0).integers(0, 64, 90)
    with torch.inference_mode():
        mel = dvae.decode(torch.from_numpy(codes)[None])[0]
        whole = NeuralVocoder(vocos)(mel, seed=2).numpy()
    found = streamed(CodeStream(dvae, vocos, seed=2), codes, [40, 3, 1, 9])
    assert error_db(found, whole) < LEAST_DB
    for name, value in (("reach", lambda reach: (reach[0] - 9, *reach[1:])), ("overlap", lambda n: n - 1)):
        short = CodeStream(dvae, vocos, seed=2)  # the test sees what it should
        setattr(short, name, value(getattr(short, name)))
        assert error_db(streamed(short, codes, [40, 3, 1, 9]), whole) > LEAST_DB


@pytest.mark.parametrize(("fold", "guidance"), [(2, 0.0), (4, 0.0), (4, 2.0)])
def test_parts_that_a_diffusion_network_restores_are_those_of_the_whole(fold, guidance):
    torch.manual_seed(0)
    dvae = DVAE(DVAEConfig(hidden=16, num_blocks=2, folded=True, fsq_levels=(8, 8))).eval()
    vocos = Vocos(VocosConfig(hidden=16, inner=32, num_blocks=1)).eval()
    diffusion = Diffusion(DiffusionConfig(hidden=16, num_blocks=3, fold=fold, num_codes=64, num_pieces=9)).eval()
    for network in (dvae, vocos.backbone, vocos.head, diffusion):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    generator = np.random.default_rng(0)
    codes, spoken = generator.integers(0, 64, 90), generator.integers(-1, 9, 90)
    with torch.inference_mode():
        tokens = torch.stack([torch.from_numpy(codes), torch.from_numpy(spoken)])[None]
        decode = dvae.decode(torch.from_numpy(codes)[None])
        sampler = SamplerConfig(method="mean", num_steps=1, guidance=guidance, guidance_of="latents")
        mel = diffusion.sample(decode, None, sampler, seed=2, tokens=tokens)[0]
        whole = NeuralVocoder(vocos)(mel, seed=2).numpy()

    def parts(stream: CodeStream, told: np.ndarray) -> np.ndarray:
        starts, ends = (0, 40, 43, 44, 53), (40, 43, 44, 53, 90)
        return np.concatenate(
            [stream.push(codes[a:b], told[a:b], last=b == 90) for a, b in zip(starts, ends, strict=True)]
        )

    def stream() -> CodeStream:
        return CodeStream(dvae, vocos, seed=2, diffusion=diffusion, sampler=sampler)

    assert error_db(parts(stream(), spoken), whole) < LEAST_DB
    assert error_db(parts(stream(), np.roll(spoken, 1)), whole) > LEAST_DB
    short = stream()
    short.reach = short.ahead = (short.reach[0], short.reach[1] // 3, short.reach[2])
    assert error_db(parts(short, spoken), whole) > LEAST_DB
    assert stream().codes_for(2400) - CodeStream(dvae, vocos).codes_for(2400) == stream().reach[1]


@pytest.mark.parametrize("fold", [1, 4])
def test_a_restored_position_depends_on_what_lies_within_its_reach(fold):
    torch.manual_seed(0)
    config = DiffusionConfig(channels=8, hidden=16, num_blocks=3, fold=fold, num_codes=64, num_pieces=9)
    diffusion = Diffusion(config).eval()
    for parameter in diffusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prior, noise, tokens = torch.randn(1, 8, 160), torch.randn(1, 8, 160), torch.randint(0, 9, (1, 2, 40))
    sampler = SamplerConfig()
    whole = diffusion.part_of_mean(prior, noise, tokens, sampler)[..., 80:84]
    reach = -(-config.reach // 4)
    for distance in (reach, reach + 1):
        other = tokens.clone()
        other[..., 20 + distance] = (other[..., 20 + distance] + 4) % 9
        changed = not torch.equal(diffusion.part_of_mean(prior, noise, other, sampler)[..., 80:84], whole)
        assert changed == (distance == reach)


def test_so_many_codes_settle_so_many_samples():
    dvae = DVAE(DVAEConfig(hidden=16, num_blocks=2, folded=True, fsq_levels=(8, 8))).eval()
    vocos = Vocos(VocosConfig(hidden=16, inner=32, num_blocks=1)).eval()
    codes = np.zeros(200, np.int64)
    for speed in (0.5, 1.0, 1.7):
        stream, at = CodeStream(dvae, vocos, speed=speed), 0
        for wanted in (7200, 2400, 14_400):
            needed = stream.codes_for(wanted)
            assert len(stream.push(codes[at : needed - 2])) < wanted
            assert len(stream.push(codes[needed - 2 : needed])) <= wanted + 2048
            at = needed
    with pytest.raises(ValueError, match="speed 9"):
        CodeStream(dvae, vocos, speed=9)
    with pytest.raises(ValueError, match="one axis"):
        CodeStream(DVAE(DVAEConfig(channels=3, compression=(4, 4), hidden=16, stem=16)), vocos)

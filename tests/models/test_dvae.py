import pytest
import torch

from triforce.models.blocks.layers import ResidualBlock, channels_to_space, space_to_channels
from triforce.models.dvae import DVAE, DVAEConfig

SMALL = {
    "channels": 20,
    "hidden": 32,
    "stem": 16,
    "num_blocks": 2,
    "codebook_size": 64,
    "fsq_levels": (5, 5, 4),
    "codebook_dim": 8,
}


def make_dvae(**settings) -> DVAE:
    """A dVAE whose residual blocks do something, as after training."""
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(**(SMALL | settings)))
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            torch.nn.init.normal_(module.mix.weight, std=0.2)
    if model.config.quantizer == "ema-vq":
        model(torch.randn(32, 20, 64))  # seeds the codebook with enough vectors that none is there twice
    return model.eval()


@pytest.mark.parametrize("quantizer", ["fsq", "ema-vq", "sim-vq", "gumbel"])
@pytest.mark.parametrize("folded", [False, True])
def test_padding_and_neighbours_change_no_code(quantizer, folded):
    model = make_dvae(quantizer=quantizer, folded=folded)
    clips = [torch.randn(20, length) for length in (1, 7, 50, 77, 101)]
    alone = [model.encode(clip[None])[0] for clip in clips]
    padded = torch.full((len(clips), 20, 123), 9.0)  # what lies past a clip is never read
    for row, clip in enumerate(clips):
        padded[row, :, : clip.shape[1]] = clip
    sizes = torch.tensor([[clip.shape[1]] for clip in clips])
    together = model.encode(padded, sizes)
    for row, codes in enumerate(alone):
        assert torch.equal(together[row, : len(codes)], codes)
        assert not together[row, len(codes) :].any()


@pytest.mark.parametrize("folded", [False, True])
def test_a_long_recording_in_chunks_has_the_codes_of_the_whole(folded):
    model = make_dvae(folded=folded, dilation_cycle=(1, 3), quantizer="fsq")
    clip = torch.randn(1, 20, 1003)
    whole = model.encode(clip)
    (reach,), changed = model.config.encoder_reach, clip.clone()
    margin = -(-reach // 4) * 4
    parts = []
    for start in range(0, 1003, 64):
        first = max(0, start - margin)
        codes = model.encode(clip[:, :, first : start + 64 + margin])
        parts.append(codes[:, (start - first) // 4 :][:, :16])
    assert torch.equal(torch.cat(parts, dim=1), whole)
    # A code depends on this many positions and no more: a change just inside alters its vector, one outside does not.
    changed[:, :, : 400 - reach] += 5
    assert torch.equal(model.encode(changed)[:, 100:], whole[:, 100:])
    changed[:, :, : 400 - reach + 8] += 5
    before, after = (model.encode_vectors(x)[0][:, :, 100] for x in (clip, changed))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("quantizer", ["fsq", "ema-vq", "sim-vq", "gumbel"])
def test_without_rounding_the_decoder_gets_the_vectors_that_the_codes_stand_near(quantizer):
    model = make_dvae(quantizer=quantizer)
    clip = torch.randn(1, 20, 80)
    z_e = model.encode_vectors(clip)[0].transpose(1, 2)
    soft, hard = model.quantizer.soft(z_e), model.quantizer.lookup(model.encode(clip))
    assert soft.shape == hard.shape
    wrong = model.quantizer.lookup(model.encode(clip).roll(7, dims=1))
    assert (soft - hard).pow(2).mean() < (soft - wrong).pow(2).mean()
    assert not torch.equal(model.reconstruct_soft(clip), model(clip).reconstruction)


def test_moving_space_to_channels_is_undone():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    cells = space_to_channels(x, (2, 3))
    assert cells.shape == (2, 18, 2, 2)
    assert torch.equal(cells[0, :6, 0, 0], x[0, 0, :2, :3].flatten())  # a cell's positions become channels
    assert torch.equal(channels_to_space(cells, (2, 3)), x)


@pytest.mark.parametrize("folded", [False, True])
def test_decoding_in_a_batch_is_decoding_alone(folded):
    model = make_dvae(folded=folded)
    codes = torch.randint(0, 100, (3, 26))
    sizes = torch.tensor([[101], [77], [40]])
    together = model.decode(codes, sizes)
    for row, (length,) in enumerate(sizes.tolist()):
        grid = model.config.grid((length,))[0]
        alone = model.decode(codes[row : row + 1, :grid], torch.tensor([[length]]))
        torch.testing.assert_close(together[row, :, :length], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 101])
def test_lengths_are_exact(length):
    model = make_dvae()
    codes = model.encode(torch.randn(1, 20, length))
    assert codes.shape == (1, -(-length // 4))
    assert model.decode(codes, torch.tensor([[length]])).shape == (1, 20, length)


@pytest.mark.parametrize(
    ("compression", "size", "grid"),
    [((4, 4), (20, 33), (5, 9)), ((2, 8), (9, 16), (5, 2)), ((1, 4, 4), (3, 8, 12), (3, 2, 3))],
)
@pytest.mark.parametrize("folded", [False, True])
def test_images_and_video_pass_through_the_same_class(compression, size, grid, folded):
    model = make_dvae(channels=3, compression=compression, folded=folded)
    image = torch.randn(2, 3, *size)
    codes = model.encode(image)
    assert codes.shape == (2, *grid)
    sizes = torch.tensor([size, size])
    assert model.decode(codes, sizes).shape == image.shape
    torch.testing.assert_close(model.decode(codes, sizes), model(image).reconstruction, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quantizer", ["fsq", "ema-vq", "sim-vq", "gumbel"])
def test_a_tiny_model_learns_one_batch(quantizer):
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(**(SMALL | {"quantizer": quantizer, "kl_weight": 0.0})))
    batch = torch.randn(4, 20, 8).repeat_interleave(4, dim=2)  # one vector for each code: a codebook can hold it
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(250):
        output = model(batch)
        loss = (output.reconstruction - batch).abs().mean() + output.quantizer_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    decoded = model.decode(model.encode(batch))
    assert (decoded - batch).abs().mean() < 0.45 * batch.abs().mean()
    assert len(model.encode(batch).unique()) > 8


def test_statistics_make_the_model_blind_to_level():
    model = make_dvae()
    clip = torch.randn(1, 20, 40)
    codes = model.encode(clip)
    model.set_statistics(torch.full((20,), 3.0), torch.full((20,), 2.0))
    assert torch.equal(model.encode(clip * 2 + 3), codes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compression": (3,)}, "power of two"),
        ({"compression": ()}, "1, 2 or 3 axes"),
        ({"fsq_levels": (64, 64, 64)}, "65536 at most"),
        ({"hiden": 8}, "hiden"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DVAEConfig(**settings)


def test_bad_input_is_refused():
    model = make_dvae()
    with pytest.raises(ValueError, match=r"give \(B, 20\)"):
        model.encode(torch.zeros(1, 21, 8))
    with pytest.raises(ValueError, match="this dVAE has 0 to 99"):
        model.decode(torch.full((1, 4), 100))
    with pytest.raises(ValueError, match="make a grid of"):
        model.decode(torch.zeros(1, 4, dtype=torch.long), torch.tensor([[12]]))

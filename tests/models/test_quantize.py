"""Quantizers: codebooks that stay the same on every rank, schedules, and perplexity."""

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.distributed import destroy_process_group, init_process_group

from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.quantize import EMAVQQuantizer, GumbelQuantizer, perplexity

NUM_RANKS = 2


def _train_codebook(rank: int, folder: str) -> None:
    """Train five steps on this rank's own data, two of them with every rare code replaced, and save the result."""
    init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_RANKS)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = {"channels": 6, "hidden": 16, "stem": 8, "num_blocks": 1, "quantizer": "ema-vq", "codebook_size": 128}
    model = DVAE(DVAEConfig(**config, codebook_dim=4)).train()
    torch.manual_seed(rank + 1)  # other data and other random numbers on each rank
    first = None
    for step in range(5):
        model.quantizer.anneal(step / 5)
        model(torch.randn(4, 6, 64) + rank)
        first = first if first is not None else model.quantizer.codebook.embed[0].clone()
    state = model.quantizer.codebook.state_dict()
    last = model.quantizer.codebook.embed[0].clone()
    torch.save({"state": state, "first": first, "last": last}, f"{folder}/{rank}.pt")
    destroy_process_group()


def test_codebook_statistics_and_restarts_are_the_same_on_every_rank(tmp_path):
    multiprocessing.spawn(_train_codebook, args=(str(tmp_path),), nprocs=NUM_RANKS)
    mine, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(NUM_RANKS))
    for name, tensor in mine["state"].items():
        assert torch.equal(tensor, theirs["state"][name]), name
    moved = (mine["last"] - mine["first"]).abs().amax(1)
    assert (moved > 0.1).sum() > 4  # restarts did happen


def test_rare_codes_are_replaced_at_first_and_settle_later():
    torch.manual_seed(0)
    quantizer = EMAVQQuantizer(8, 64, 4, 0.25, dead_share=0.1, refresh_share=0.5).train()

    def replaced_share(progress: float) -> float:
        """Return the share of all codes that the last of a few steps on fresh data replaced."""
        for _ in range(20):
            quantizer.anneal(progress)
            before = quantizer.codebook.embed[0].clone()
            quantizer(torch.randn(2, 40, 8), torch.ones(2, 40))
        moved = (before - quantizer.codebook.embed[0]).abs().amax(1)
        return float((moved > 0.2).float().mean())

    early, late = replaced_share(0.1), replaced_share(0.9)
    assert early > 0.05
    assert late < early / 4


def test_gumbel_follows_dall_es_schedules():
    quantizer = GumbelQuantizer(8, 16, kl_weight=2.0).train()
    z_e, mask = torch.randn(1, 5, 8), torch.ones(1, 5)
    quantizer.anneal(0.0)
    assert float(quantizer.temperature) == 1.0
    assert float(quantizer(z_e, mask).loss) == 0.0
    quantizer.anneal(0.1)
    full = float(quantizer(z_e, mask).loss)
    quantizer.anneal(0.05)
    assert float(quantizer(z_e, mask).loss) == pytest.approx(full / 2, rel=1e-4)
    quantizer.anneal(1.0)
    assert float(quantizer.temperature) == pytest.approx(1 / 16)


def test_perplexity_counts_codes_as_if_used_evenly():
    for counts in (np.array([3, 0, 3, 3, 0]), torch.tensor([3.0, 0, 3, 3, 0])):
        assert perplexity(counts) == pytest.approx(3)
    shares = np.array([0.5, 0.25, 0.25])
    assert perplexity(shares * 1000) == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())))
    assert perplexity(np.array([7, 0])) == pytest.approx(1)
    assert perplexity(np.zeros(4, np.int64)) == 0

"""A codebook that learns by exponential moving averages (van den Oord et al. 2017, appendix A.1).

The nearest code is found by one float32 matrix product, whatever autocast says, and counts and sums by scattering, so a
step builds no one-hot matrix and does not wait for the device. Every rank holds the same codebook: counts and sums are
added over the ranks, and the vectors that replace dead codes come from all of them.
"""

from __future__ import annotations

import math

import torch
from torch import distributed, nn

DECAY = 0.99
KMEANS_ROUNDS = 10
MAX_SCORES = 1 << 23
"""Most scores, vectors times codes, that are held at once: 32 MiB in float32."""


def nearest(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return the code ``(N,)`` int64 that is nearest to each of ``vectors`` ``(N, D)`` in a ``codebook`` ``(K, D)``."""
    with torch.autocast(vectors.device.type, enabled=False):
        vectors, codebook = vectors.detach().float(), codebook.float()
        # |v - c|^2 without |v|^2, which is the same for every code, halved: (v, 1) by (-c, |c|^2 / 2)
        vectors = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
        weights = torch.cat([-codebook, codebook.square().sum(1, keepdim=True) / 2], dim=1).T
        rows = max(1, MAX_SCORES // len(codebook))
        return torch.cat([_argmin(part @ weights) for part in vectors.split(rows)])


def _argmin(scores: torch.Tensor) -> torch.Tensor:
    """Return the column ``(N,)`` of the least of each row of ``scores`` ``(N, K)``, by blocks: 5 times as fast here."""
    width = math.gcd(scores.shape[1], 128)
    blocks = scores.unflatten(1, (-1, width))
    block = blocks.amin(2).argmin(1)
    inside = blocks[torch.arange(len(block), device=block.device), block].argmin(1)
    return block * width + inside


def rotate(z_e: torch.Tensor, z_q: torch.Tensor) -> torch.Tensor:
    """Return ``z_q`` with the gradient for ``z_e`` of the rotation and scaling that turns one into the other.

    This is the rotation trick (Fifty et al. 2024, arXiv 2410.06424): the gradient keeps its angle to the vector, where
    the straight-through estimator copies it unturned.
    """
    length_e, length_q = (z.norm(dim=-1, keepdim=True).clamp_min(1e-6) for z in (z_e.detach(), z_q))
    unit_e, unit_q = z_e.detach() / length_e, z_q / length_q
    middle = nn.functional.normalize(unit_e + unit_q, dim=-1, eps=1e-6)
    reflected = (z_e * middle).sum(-1, keepdim=True) * middle
    turned = z_e - 2 * reflected + 2 * (z_e * unit_e).sum(-1, keepdim=True) * unit_q
    return turned * (length_q / length_e)


class EMACodebook(nn.Module):
    """A codebook of moving averages, started by k-means on the first batch.

    A code whose moving count falls below a threshold is dead and is replaced by a vector of the batch; each vector
    replaces one code at most. The threshold is one vector a step while `refreshing`, and ``dead_share`` of the count
    that every code would have if all were drawn equally often, after.
    """

    initted: torch.Tensor
    cluster_size: torch.Tensor
    embed_avg: torch.Tensor
    embed: torch.Tensor

    def __init__(self, codebook_size: int, dim: int, dead_share: float) -> None:
        super().__init__()
        self.dead_share = dead_share
        self.refreshing = True
        # The leading 1 is a number of codebooks, in the layout that releases have.
        self.register_buffer("initted", torch.tensor(False))
        self.register_buffer("cluster_size", torch.ones(1, codebook_size))
        self.register_buffer("embed_avg", torch.zeros(1, codebook_size, dim))
        self.register_buffer("embed", torch.zeros(1, codebook_size, dim))
        self._started = False

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nearest codes ``(B, L)`` int64 and their vectors, float32, as they are before a step moves them.

        In training the codebook then follows ``vectors`` ``(B, L, D)`` where ``mask`` ``(B, L)`` is not 0.
        """
        flat, valid = vectors.detach().float().flatten(0, 1), mask.flatten() > 0
        if self.training and not self._started:  # a Python flag, because to read a tensor is to wait for the device
            if not self.initted:
                self._start(flat, valid)
            self._started = True
        codes = nearest(flat, self.embed[0])
        chosen = self.embed[0][codes].view(*vectors.shape)
        if self.training:
            with torch.no_grad():
                self._follow(flat, valid, codes)
        return codes.view(vectors.shape[:2]), chosen

    def _follow(self, flat: torch.Tensor, valid: torch.Tensor, codes: torch.Tensor) -> None:
        """Move counts and sums towards this batch's, then the codes to their means, then replace the dead ones."""
        even_use = self.cluster_size.mean()
        counts, sums = _summed(flat, valid, codes, len(self.embed[0]))
        self.cluster_size[0].lerp_(counts, 1 - DECAY)
        self.embed_avg[0].lerp_(sums, 1 - DECAY)
        self._take_means()
        one = even_use.new_ones(())
        threshold, count = (one, one) if self.refreshing else (self.dead_share * even_use, even_use.clamp_max(1.0))
        pool, usable, noise = self._candidates(flat, valid)
        dead = self.cluster_size[0] < threshold
        # The dead codes in a random order, and the usable vectors in another: the first takes the first, and so on.
        turn = _ranks(noise[: len(dead)] + 2.0 * ~dead)
        order = torch.argsort(noise[len(dead) :] + 2.0 * ~usable)
        taken = pool[order[turn.clamp_max(len(pool) - 1)]]
        replaced = (dead & (turn < usable.sum()))[:, None]
        self.embed[0] = torch.where(replaced, taken, self.embed[0])
        self.embed_avg[0] = torch.where(replaced, taken * count, self.embed_avg[0])
        self.cluster_size[0] = torch.where(replaced[:, 0], count, self.cluster_size[0])

    def _take_means(self) -> None:
        """Set each code to its mean; of counts near 0, Laplace smoothing keeps the quotient finite."""
        total, eps = self.cluster_size.sum(), 1e-5
        smoothed = (self.cluster_size + eps) / (total + self.cluster_size.shape[1] * eps) * total
        self.embed.copy_(self.embed_avg / smoothed[..., None])

    @torch.no_grad()
    def _start(self, flat: torch.Tensor, valid: torch.Tensor) -> None:
        """Set the codes to the means of clusters of the first batch, the first rank's."""
        vectors, size = flat[valid], len(self.embed[0])
        if len(vectors) == 0:
            raise ValueError("the first batch holds no vector to start the codebook from: every position is padding")
        few = len(vectors) < size
        order = torch.randint(len(vectors), (size,), device=flat.device) if few else torch.randperm(len(vectors))[:size]
        means = vectors[order.to(flat.device)]
        everything = torch.ones_like(vectors[:, 0], dtype=torch.bool)
        for _ in range(KMEANS_ROUNDS):
            counts, sums = _summed(vectors, everything, nearest(vectors, means), size, over_ranks=False)
            means = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], means)
        self.cluster_size[0] = counts
        self.embed_avg[0] = means * counts[:, None]
        self._take_means()
        self.initted.fill_(True)
        if _several_ranks():
            for buffer in (self.cluster_size, self.embed_avg, self.embed):
                distributed.broadcast(buffer, 0)

    def _candidates(self, flat: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return vectors of all ranks ``(P, D)``, which of them are usable ``(P,)``, and noise ``(K + P,)``, uniform in
        0 to 1; each is the same on every rank.
        """
        size = len(self.embed[0])
        if not _several_ranks():
            return flat, valid, torch.rand(size + len(flat), device=flat.device)
        # As many rows from each rank, whatever its batch holds, for a gather of fixed size.
        world = distributed.get_world_size()
        rows = -(-size // world)
        own = torch.argsort(torch.rand(len(flat), device=flat.device) + 2.0 * ~valid)[:rows]
        mine = flat.new_zeros(rows, flat.shape[1] + 1)
        mine[: len(own), :-1], mine[: len(own), -1] = flat[own], valid[own].to(flat.dtype)
        pool = flat.new_empty(world * rows, mine.shape[1])
        distributed.all_gather_into_tensor(pool, mine)
        noise = torch.rand(size + len(pool), device=flat.device)
        distributed.broadcast(noise, 0)
        return pool[:, :-1], pool[:, -1] > 0, noise


def _several_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the place of each of ``values`` ``(N,)`` among them sorted, from 0."""
    places = torch.empty_like(values, dtype=torch.int64)
    return places.scatter_(0, torch.argsort(values), torch.arange(len(values), device=values.device))


def _summed(
    vectors: torch.Tensor, valid: torch.Tensor, codes: torch.Tensor, size: int, over_ranks: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number ``(size,)`` and the sum ``(size, D)`` of the valid vectors of each code, over all ranks."""
    rows = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1) * valid[:, None]
    totals = rows.new_zeros(size, rows.shape[1]).index_add_(0, codes, rows)
    if over_ranks and _several_ranks():
        distributed.all_reduce(totals)
    return totals[:, -1], totals[:, :-1]

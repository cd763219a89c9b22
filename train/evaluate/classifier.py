"""A small classifier of pictures, fitted to real ones, and so independent of the networks that are evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (32, 64, 128)
BATCH_SIZE = 64


class PictureClassifier:
    """Three convolutions, the mean and maximum of their features, and a linear layer. For pictures of one size."""

    def __init__(self, labels: Sequence[str], seed: int = 0) -> None:
        self.labels = list(labels)
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = (3, *WIDTHS)
            self._layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, WIDTHS, strict=False))
            self._head = nn.Linear(2 * WIDTHS[-1], len(self.labels))

    def fit(self, pictures: Sequence[torch.Tensor], words: Sequence[str], num_steps: int) -> None:
        """Learn ``words`` of pictures ``(3, H, W)`` from 0 to 1. Raises ValueError where their sizes differ."""
        if len(sizes := {tuple(picture.shape) for picture in pictures}) > 1:
            raise ValueError(f"pictures of {len(sizes)} sizes: a classifier is fitted to pictures of one size")
        planes, targets = torch.stack(list(pictures)), torch.tensor([self.labels.index(word) for word in words])
        parameters = [*self._layers.parameters(), *self._head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, num_steps)
        for _ in range(num_steps):
            rows = torch.randint(len(planes), (BATCH_SIZE,), generator=self._generator)
            loss = F.cross_entropy(self._head(self._features(self._shifted(planes[rows]))[-1]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _shifted(self, planes: torch.Tensor) -> torch.Tensor:
        reach = max(1, planes.shape[-1] // 16)
        by = torch.randint(-reach, reach + 1, (2,), generator=self._generator).tolist()
        padded = F.pad(planes, [reach] * 4, mode="replicate")
        height, width = planes.shape[-2:]
        return padded[..., reach + by[0] : reach + by[0] + height, reach + by[1] : reach + by[1] + width]

    def _features(self, planes: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every layer, and last the pooled ones that the head reads."""
        found, x = [], planes - 0.5
        for index, layer in enumerate(self._layers):
            if index and min(x.shape[-2:]) > 2:
                x = F.max_pool2d(x, 2)
            x = F.relu(layer(x))
            found.append(x)
        return [*found, torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)]

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[torch.Tensor]) -> list[str]:
        """Return the most likely label of each picture."""
        return [self.labels[int(self._head(self._features(picture[None])[-1]).argmax())] for picture in pictures]

    @torch.inference_mode()
    def distance(self, a: torch.Tensor, b: torch.Tensor) -> float:
        """Return the distance of two pictures' features, each position's scaled to length 1: 0 for the same.

        Zhang et al. 2018, arXiv 1801.03924, do so with a large network.
        """
        total = 0.0
        for x, y in zip(self._features(a[None])[:-1], self._features(b[None])[:-1], strict=True):
            total += float((F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).sum(1).mean())
        return total / len(WIDTHS)

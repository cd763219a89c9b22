"""A setting of the C library's memory allocator that speeds up networks on a CPU."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``, from glibc's malloc.h."""

MMAP_BYTES, TRIM_BYTES = 32 * 2**20, 2**31 - 1
"""Largest values that glibc accepts for the two thresholds."""


def reuse_freed_memory() -> bool:
    """Make this process reuse the memory of freed tensors; return whether the C library supports it.

    PyTorch caches no memory on CPU, and glibc returns blocks of some megabytes to the kernel, which clears each page
    again before its next use: as much as a fifth of the time of a convolutional network. With this setting the process
    keeps the largest size that it ever had. Meant for processes that compute; has no effect where the C library is not
    glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES) and mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))

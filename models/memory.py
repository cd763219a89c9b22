"""How the C library treats memory that tensors give back."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""

MMAP_BYTES, TRIM_BYTES = 32 * 2**20, 2**31 - 1
"""The most that glibc takes for each."""


def reuse_freed_memory() -> bool:
    """Keep for later tensors what earlier ones freed, in this process; whether the C library could be told.

    PyTorch caches no memory on CPU, and glibc hands blocks of some megabytes back to the kernel, which clears each page
    again before its next use: as much as a fifth of the time of a convolutional network. The process stays as large
    as it ever was. For processes that compute; a no-op where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES) and mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))

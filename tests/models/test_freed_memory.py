"""Memory that tensors free is used again instead of returned to the kernel and requested again."""

import platform
import subprocess
import sys

import pytest

BLOCK_FAULTS = 12 * 2**20 // 4096
"""Page faults of one of the tensors of `COUNT`, 12 MiB."""

COUNT = """
import resource, sys
import torch
from triforce.models.memory import reuse_freed_memory

def fill():
    [torch.ones(12 * 2**18) for _ in range(20)]

if sys.argv[1] == "reuse":
    assert reuse_freed_memory()
for _ in range(4):
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    fill()
print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", COUNT, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    # What glibc does by itself depends on where its heap happens to end: in some processes nothing is returned.
    assert any(faults("as it is") > 10 * BLOCK_FAULTS for _ in range(10))
    assert faults("reuse") <= 2 * BLOCK_FAULTS

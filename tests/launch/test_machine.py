import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from launch.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(5)))
keep_freed_memory()
print(min([faults() for _ in range(30)][-5:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    # In a process of its own: what thousands of tests leave in this one's heap has no place for 64 MiB.
    printed = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    as_usual, kept = map(int, printed.split())
    assert as_usual > 16  # 32 where pages are large ones
    assert kept < as_usual / 16  # after a few, there is room for one and its alignment

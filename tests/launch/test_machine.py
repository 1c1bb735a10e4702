import resource
import sys

import pytest
import torch

from launch.machine import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)  # 64 MiB, 16,384 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    assert min([faults() for _ in range(30)][-5:]) < 1000  # after a few, there is room for one and its alignment

"""What a training step frees stays with the process, so that the next step need not have it mapped anew."""

import os
import subprocess
import sys

import pytest

from quickstudy.training.memory import keep_freed_memory

STEPS = """
import resource
import torch
from quickstudy.training.memory import keep_freed_memory

def faults():
    for _ in range(4):  # two blocks of 64 MB, which glibc would hand back
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(2**24) for _ in range(2)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_later_steps_find_their_memory_mapped() -> None:
    """A step of two 64 MB blocks has their pages mapped anew; once they are kept, hardly any."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC", "LD_"))}
    out = subprocess.run([sys.executable, "-c", STEPS], env=plain, check=True, capture_output=True, text=True).stdout
    before, kept, after = out.split()
    if kept == "False":
        pytest.skip("not glibc")
    assert int(after) < 100
    assert int(before) > 1000 or int(before) > 20 * int(after)  # pages may be large ones


def test_a_choice_by_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who set the allocator's thresholds keeps them."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory.__wrapped__()

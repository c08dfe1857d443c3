"""A process that trains does not ask the system for the same memory at each step."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from tune.allocator import keep_freed_memory
{call}
torch.set_num_threads(1)
model, steps = torch.nn.LSTM(1, 64), torch.ones(10, 1024, 1)
def step():
    model(steps)[0].sum().backward()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_steps_take_again_what_they_freed() -> None:
    faults = []
    for call in ("keep_freed_memory()", ""):
        command = [sys.executable, "-c", STEPS.format(call=call)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        faults.append(int(done.stdout))
    kept, given_back = faults
    assert kept < given_back / 10

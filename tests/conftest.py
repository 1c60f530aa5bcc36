"""What every test relies on: plain imports from the tests folder, one thread each."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
# Sums depend on the number of threads, so a machine's size must not choose it; and pytest-xdist
# fills the cores. For the processes that tests start, too.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)

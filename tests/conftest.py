"""What every test relies on: plain imports from the tests folder, a fixed number of threads."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    # Sums depend on the number of threads, so a machine's size must not choose it.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

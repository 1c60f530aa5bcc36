"""Whether this machine has an NVIDIA driver, asked without torch and without noise."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache


@lru_cache(maxsize=1)
def cuda_driver() -> bool:
    """Whether CUDA's driver library can be loaded.

    A CUDA build of onnxruntime says that it has CUDA even where there is no GPU, and fills the
    terminal with its failure when it is believed.
    """
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True

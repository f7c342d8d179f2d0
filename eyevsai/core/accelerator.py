"""Detection of a CUDA device, without the import of torch on machines that have none."""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library

# files of the drivers of NVIDIA, of NVIDIA under WSL, and of AMD, which torch reports as CUDA
DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def has_cuda() -> bool:
    """Return True if torch finds a CUDA device."""
    if sys.platform == "darwin":
        return False
    if sys.platform == "win32":
        has_driver = find_library("nvcuda") is not None
    else:
        has_driver = any(map(os.path.exists, DRIVERS))
    if not has_driver:
        return False
    import torch

    return torch.cuda.is_available()

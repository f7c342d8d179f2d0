"""What computes, in which number format, on how many threads."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from eyevsai.errors import UserError
from eyevsai.training.settings import DeviceSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def find_device(name: str) -> torch.device:
    """The device that `name` stands for; `auto` takes CUDA, else MPS, else the CPU.

    Raises:
        UserError: the device was asked for by name and is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present[name]:
        raise UserError(
            f"--device {name}: this machine has none that torch can use. --device auto takes what there is."
        )
    return torch.device(name)


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of training steps; `auto` takes bfloat16 only where hardware computes it.

    Raises:
        UserError: float16 on a CPU, which computes it a hundred times slower than float32.
    """
    if name == "float16" and device.type == "cpu":
        raise UserError("--precision float16 is for GPUs; on a CPU choose auto, bfloat16 or float32.")
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and has_fast_bfloat16():
        return torch.bfloat16
    return torch.float32


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def prepare(settings: DeviceSettings) -> torch.device:
    """Sets threads and allocation for this process and returns the device to compute on."""
    device = find_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if device.type == "cpu":
        _keep_freed_memory()
    return device


def _keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks instead of returning them to the kernel.

    Each training step frees and asks again for the same tens of megabytes; by default each of
    them is a fresh mapping whose pages are zeroed at first touch, which costs up to a third of a step.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in musl
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)

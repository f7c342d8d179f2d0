"""Selection of the device, the precision and the number of threads."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from eyevsai.core.errors import UserError
from eyevsai.training.settings import DeviceSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # constants of glibc's malloc.h


def find_device(name: str) -> torch.device:
    """Return the device named `name`; `auto` selects CUDA, else MPS, else the CPU.

    Raises:
        UserError: the named device is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(each for each, is_available in available.items() if is_available)
    if not available[name]:
        raise UserError(
            f"--device {name} is not available to torch on this machine. Use --device auto."
        )
    return torch.device(name)


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of training steps.

    `auto` selects bfloat16 if the CUDA device or the CPU computes it in hardware, else float16 on
    CUDA and float32 elsewhere.

    Raises:
        UserError: `name` is float16 and the device a CPU, where it is a hundred times slower than
            float32.
    """
    if name == "float16" and device.type == "cpu":
        raise UserError(
            "--precision float16 is not supported on CPUs. Use auto, bfloat16 or float32."
        )
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    if device.type == "cpu" and has_fast_bfloat16():
        return torch.bfloat16
    return torch.float32


def check_device(settings: object) -> None:
    """Raise UserError if this machine lacks the device of a model's settings, or its precision.

    Models without a device, such as forests, pass.
    """
    if isinstance(settings, DeviceSettings):
        find_precision(settings.precision, find_device(settings.device))


def has_fast_bfloat16() -> bool:
    """Return True if this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX).

    False with releases of torch that do not report what a CPU can do: float32 works on all.
    """
    report: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = report()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def check_devices(count: int, device: torch.device) -> None:
    """Raise UserError if `count` processes cannot train together on devices of this type."""
    if count == 1:
        return
    if device.type == "mps" or not torch.distributed.is_available():
        raise UserError(
            f"--devices {count} is not supported: this torch trains on several devices only with "
            "CUDA and on CPUs. Omit it, or add --device cpu."
        )
    if device.type == "cuda" and count > (available := torch.cuda.device_count()):
        raise UserError(
            f"--devices {count} is too high: this machine has {available} CUDA "
            f"device{'s' * (available > 1)}. Choose at most {available}, or --device cpu."
        )


def set_local_device(local_rank: int, local_size: int, settings: DeviceSettings) -> None:
    """Assign this process its CUDA device, or its share of the CPU threads.

    Args:
        local_rank: rank of this process on this machine, which is the index of its CUDA device.
        local_size: number of processes on this machine, which share the CPU threads equally.
        settings: device settings; with `threads` set, the number of threads stays as it is.
    """
    device = find_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    elif not settings.threads:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))


def setup_device(settings: DeviceSettings) -> torch.device:
    """Set the threads and the memory allocation of this process; return its device."""
    device = find_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if device.type == "cpu":
        _keep_freed_memory()
    return device


def _keep_freed_memory() -> None:
    """Make glibc reuse large blocks instead of returning them to the kernel.

    Each training step frees and allocates the same tens of megabytes. By default each block is a
    fresh mapping whose pages are zeroed at the first access, which takes up to a third of a step.
    Has no effect on other systems, or if MALLOC_TRIM_THRESHOLD_ is set.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # missing in musl
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)

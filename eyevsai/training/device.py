"""What computes, in which number format, on how many threads."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from eyevsai.core.errors import UserError
from eyevsai.training.settings import DeviceSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def find_device(name: str) -> torch.device:
    """The device that `name` stands for; `auto` takes CUDA, else MPS, else the CPU.

    Raises:
        UserError: the device was asked for by name and is not there.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present[name]:
        raise UserError(
            f"--device {name}: this machine has none that torch can use. --device auto takes "
            "what there is."
        )
    return torch.device(name)


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of training steps; `auto` takes bfloat16 only where hardware computes it.

    Raises:
        UserError: float16 on a CPU, which computes it a hundred times slower than float32.
    """
    if name == "float16" and device.type == "cpu":
        raise UserError(
            "--precision float16 is for GPUs; on a CPU choose auto, bfloat16 or float32."
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


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def check_devices(count: int, device: torch.device) -> None:
    """Raises UserError when `count` processes of this machine cannot share a batch on such
    devices.
    """
    if count == 1:
        return
    if device.type == "mps" or not torch.distributed.is_available():
        raise UserError(
            f"--devices {count}: this torch shares batches only on CUDA and on CPUs. Leave it "
            "out, or add --device cpu."
        )
    if device.type == "cuda" and count > (there := torch.cuda.device_count()):
        raise UserError(
            f"--devices {count}: this machine has {there} CUDA device{'s' * (there > 1)}. "
            f"Choose at most {there}, or --device cpu."
        )


def set_local_device(local_rank: int, local_size: int, settings: DeviceSettings) -> None:
    """Give this process its device, or its share of the cores, as one of the `local_size`
    processes on this machine.
    """
    device = find_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    elif not settings.threads:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))


def setup_device(settings: DeviceSettings) -> torch.device:
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
    them is a fresh mapping whose pages are zeroed at first touch, which costs up to a third of a
    step.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in musl
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)

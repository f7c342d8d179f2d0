"""TensorRT format for NVIDIA GPUs. The engine is built on the machine that runs it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import onnxruntime

from eyevsai.formats.base import ExportSource, Runtime
from eyevsai.formats.onnx import CPU, MODEL, Onnx, OnnxRuntime, to_onnx
from eyevsai.formats.onnx_versions import save_onnx
from eyevsai.formats.tracing import INPUT

log = logging.getLogger("eyevsai")

PROVIDER = "TensorrtExecutionProvider"
SETTINGS = "engine.json"
SHAPES = {"min": (1, 32, 32, 3), "opt": (8, 512, 512, 3), "max": (32, 2048, 2048, 3)}
TRTEXEC = {"min": "minShapes", "opt": "optShapes", "max": "maxShapes"}


class TensorRt(Onnx):
    """ONNX export of a network, with settings to build an engine in ONNX Runtime or trtexec."""

    name = "tensorrt"
    networks_only = True

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write `model.onnx` and `engine.json`; warn if TensorRT is not available here."""
        # without a branch that skips the resize: TensorRT may not support it
        save_onnx(to_onnx(source), folder / MODEL)
        if not is_available():
            log.warning(
                "TensorRT is not available on this machine: the engine is built where it first "
                "runs, and the parity check uses the ONNX file on the CPU."
            )
        shapes = {name: "x".join(map(str, shape)) for name, shape in SHAPES.items()}
        flags = [f"--{TRTEXEC[name]}={INPUT}:{shape}" for name, shape in shapes.items()]
        engine_cache = {"trt_engine_cache_enable": True}  # the example sets the cache's path
        settings = {
            "onnxruntime": provider_options() | engine_cache,
            "trtexec": ["trtexec", f"--onnx={MODEL}", *flags],
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def open(self, folder: Path) -> Runtime:
        """Open the ONNX file with TensorRT, or on the CPU if TensorRT is not available."""
        providers = (
            ((PROVIDER, provider_options()), "CUDAExecutionProvider", *CPU)
            if is_available()
            else CPU
        )
        return OnnxRuntime(folder / MODEL, providers)


def is_available() -> bool:
    """Return True if ONNX Runtime has the TensorRT provider on this machine."""
    return PROVIDER in onnxruntime.get_available_providers()


def provider_options() -> dict[str, Any]:
    """Return options of ONNX Runtime's TensorRT provider: the range of input shapes, no fp16."""
    shapes = {
        f"trt_profile_{name}_shapes": f"{INPUT}:{'x'.join(map(str, shape))}"
        for name, shape in SHAPES.items()
    }
    return {**shapes, "trt_fp16_enable": False}

"""TensorRT: for NVIDIA's cards, whose engine is built where it will run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from eyevsai.formats.base import ExportSource, Runtime
from eyevsai.formats.onnx import CPU, MODEL, Onnx, OnnxRuntime, to_onnx
from eyevsai.formats.tracing import INPUT

log = logging.getLogger("eyevsai")

PROVIDER = "TensorrtExecutionProvider"
SETTINGS = "engine.json"
SHAPES = {"min": (1, 32, 32, 3), "opt": (8, 512, 512, 3), "max": (32, 2048, 2048, 3)}
TRTEXEC = {"min": "minShapes", "opt": "optShapes", "max": "maxShapes"}


class TensorRt(Onnx):
    """For networks: an ONNX file and the settings by which ONNX Runtime, or trtexec, builds an
    engine of it.
    """

    name = "tensorrt"
    networks_only = True

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write the ONNX file and the engine settings; warn if TensorRT is missing here."""
        # without a branch, of which an engine may not be made
        onnx.save(to_onnx(source), folder / MODEL)
        if not is_here():
            log.warning(
                "There is no TensorRT here: the engine is built where it first runs, and what is "
                "compared with the model is the ONNX file on the CPU."
            )
        shapes = {name: "x".join(map(str, shape)) for name, shape in SHAPES.items()}
        flags = [f"--{TRTEXEC[name]}={INPUT}:{shape}" for name, shape in shapes.items()]
        keeping = {"trt_engine_cache_enable": True}  # and where: see the example
        settings = {
            "onnxruntime": provider_options() | keeping,
            "trtexec": ["trtexec", f"--onnx={MODEL}", *flags],
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def open(self, folder: Path) -> Runtime:
        """Open the ONNX file with TensorRT, or on the CPU if TensorRT is not available."""
        providers = (
            ((PROVIDER, provider_options()), "CUDAExecutionProvider", *CPU) if is_here() else CPU
        )
        return OnnxRuntime(folder / MODEL, providers)


def is_here() -> bool:
    """Whether ONNX Runtime can build engines on this machine."""
    return PROVIDER in onnxruntime.get_available_providers()


def provider_options() -> dict[str, Any]:
    """What ONNX Runtime's TensorRT provider is told: the sizes that images may have."""
    shapes = {
        f"trt_profile_{name}_shapes": f"{INPUT}:{'x'.join(map(str, shape))}"
        for name, shape in SHAPES.items()
    }
    return {**shapes, "trt_fp16_enable": False}

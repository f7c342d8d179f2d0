"""OpenVINO: for Intel's processors, in float32 or, where they have it, in bfloat16."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import ClassVar

import numpy as np

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.format import Format, Pixels, Runtime, Source
from eyevsai.formats.onnx import to_onnx

MODEL = "model.xml"


class OpenVino(Format):
    """For every family. OpenVINO takes bfloat16 by itself where the processor has it, unless told otherwise."""

    name = "openvino"
    extra = ("openvino", "openvino")
    precision: ClassVar[str] = "f32"

    def write(self, source: Source, folder: Path) -> None:
        """See `Format.write`."""
        import openvino

        proto = to_onnx(source).SerializeToString()
        openvino.save_model(openvino.Core().read_model(proto), folder / MODEL, compress_to_fp16=False)

    def open(self, folder: Path) -> Runtime:
        """See `Format.open`."""
        return OpenVinoRuntime(folder / MODEL, self.precision)


class OpenVinoBfloat16(OpenVino):
    """The same file, computed with eight bits of mantissa: faster, and close."""

    name = "openvino-bf16"
    points = 0.5
    agreement = 0.98
    precision = "bf16"


class OpenVinoRuntime:
    """A compiled model; each thread asks it by a request of its own."""

    def __init__(self, path: Path, precision: str) -> None:
        import openvino
        import torch

        config = {
            "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }  # fmt: skip
        self.model = openvino.Core().compile_model(path, "CPU", config)
        self.own = threading.local()

    def predict_proba(self, images: Pixels) -> Probabilities:
        """See `Runtime.predict_proba`."""
        if not hasattr(self.own, "request"):
            self.own.request = self.model.create_infer_request()
        found = self.own.request.infer([np.ascontiguousarray(images)])
        return np.array(found[self.model.output(0)], dtype=np.float32)

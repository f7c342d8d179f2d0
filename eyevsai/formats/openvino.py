"""OpenVINO: for Intel's processors, in float32 or, where they have it, in bfloat16."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import ExportSource, Format, Pixels, Runtime
from eyevsai.formats.onnx import to_onnx
from eyevsai.formats.tracing import CROPS

if TYPE_CHECKING:
    import openvino

MODEL = "model.xml"
SHORT_SIDE = ["eyevsai", "short_side_px"]  # where a model file says what size is not resized


class OpenVino(Format):
    """For every family. OpenVINO takes bfloat16 by itself where the processor has it, unless told
    otherwise.
    """

    name = "openvino"
    extra = ("openvino", "openvino")
    precision: ClassVar[str] = "f32"

    def write(self, source: ExportSource, folder: Path) -> None:
        """Convert the ONNX file of the source and write XML and weights."""
        import openvino

        model = openvino.Core().read_model(to_onnx(source).SerializeToString())
        model.set_rt_info(str(source.learner.preprocessing.short_side_px), SHORT_SIDE)
        openvino.save_model(model, folder / MODEL, compress_to_fp16=False)

    def open(self, folder: Path) -> Runtime:
        return OpenVinoRuntime(folder / MODEL, self.precision)


class OpenVinoBfloat16(OpenVino):
    """The same file, computed with eight bits of mantissa: faster, and close."""

    name = "openvino-bf16"
    points = 0.5
    agreement = 0.98
    precision = "bf16"


class OpenVinoRuntime:
    """A model of which each thread has requests of its own.

    Images that are resized already go past its resize, which costs more than a small network. That
    is done here and not by a branch in the file: behind one, OpenVINO 2026 answers wrongly once the
    number of images has changed.
    """

    def __init__(self, path: Path, precision: str) -> None:
        import openvino
        import torch

        self.path = path
        self.short_side_px = int(
            openvino.Core().read_model(path).get_rt_info(SHORT_SIDE).astype(str)
        )
        self.config = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.compiling = threading.Lock()
        self.compiled: dict[bool, openvino.CompiledModel] = {}
        self.own = threading.local()

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        resized = images.shape[1:3] == (self.short_side_px, self.short_side_px)
        request = self._request(resized)
        if resized:
            side = request.input_tensors[0].shape[1]
            begin = (self.short_side_px - side) // 2
            images = images[:, begin : begin + side, begin : begin + side]
        request.infer([np.ascontiguousarray(images)])
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)

    def _request(self, resized: bool) -> openvino.InferRequest:
        requests = self.own.__dict__
        if str(resized) not in requests:
            requests[str(resized)] = self._compile(resized).create_infer_request()
        return requests[str(resized)]

    def _compile(self, resized: bool) -> openvino.CompiledModel:
        with self.compiling:
            if resized not in self.compiled:
                # OpenVINO 2026 gives the thread that compiles a stack for signals. Of two models
                # that go, the second puts back that of the first, which is gone: in the main thread
                # the next signal would end the process.
                with ThreadPoolExecutor(1) as pool:
                    self.compiled[resized] = pool.submit(self._compile_here, resized).result()
            return self.compiled[resized]

    def _compile_here(self, resized: bool) -> openvino.CompiledModel:
        import openvino

        core = openvino.Core()
        model = core.read_model(self.path)
        return core.compile_model(_from_crops(model) if resized else model, "CPU", self.config)


def _from_crops(model: openvino.Model) -> openvino.Model:
    """The part of a graph that comes after its resize."""
    import openvino

    outputs = [output for operation in model.get_ordered_ops() for output in operation.outputs()]
    crops = next(output for output in outputs if CROPS in output.get_names())
    given = openvino.opset13.parameter(crops.get_partial_shape(), crops.get_element_type())
    # of images: how many they are
    for taker in crops.get_target_inputs() | model.input(0).get_target_inputs():
        taker.replace_source_output(given.output(0))
    return openvino.Model(model.get_results(), [given])

"""OpenVINO formats for Intel processors, with float32 or bfloat16 inference."""

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
SHORT_SIDE = ["eyevsai", "short_side_px"]  # path of the metadata: the size that is not resized


class OpenVino(Format):
    """OpenVINO export of a model of any family, for float32 inference.

    The precision is set explicitly, because OpenVINO defaults to bfloat16 on processors with
    support for it.
    """

    name = "openvino"
    extra = ("openvino", "openvino")
    precision: ClassVar[str] = "f32"

    def write(self, source: ExportSource, folder: Path) -> None:
        """Convert the ONNX graph of the source and write `model.xml` and its weights."""
        import openvino

        model = openvino.Core().read_model(to_onnx(source).SerializeToString())
        model.set_rt_info(str(source.learner.preprocessing.short_side_px), SHORT_SIDE)
        openvino.save_model(model, folder / MODEL, compress_to_fp16=False)

    def open(self, folder: Path) -> Runtime:
        return OpenVinoRuntime(folder / MODEL, self.precision)


class OpenVinoBfloat16(OpenVino):
    """The same files for bfloat16 inference, which is faster and less precise."""

    name = "openvino-bf16"
    max_accuracy_loss = 0.5
    min_agreement = 0.98
    precision = "bf16"


class OpenVinoRuntime:
    """OpenVINO model with separate inference requests for each thread.

    Images of the resized size skip the resize, which takes longer than a small network. This class
    chooses between two compiled models for that, because a branch in the file makes OpenVINO 2026
    return wrong results after the number of images has changed.
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
        self.compile_lock = threading.Lock()
        self.compiled: dict[bool, openvino.CompiledModel] = {}
        self.thread_requests = threading.local()

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
        requests = self.thread_requests.__dict__
        if str(resized) not in requests:
            requests[str(resized)] = self._compile(resized).create_infer_request()
        return requests[str(resized)]

    def _compile(self, resized: bool) -> openvino.CompiledModel:
        with self.compile_lock:
            if resized not in self.compiled:
                # OpenVINO 2026 sets an alternate signal stack for the compiling thread. When two
                # models are freed, the second one restores the stack of the first, which no longer
                # exists: in the main thread, the next signal would crash the process.
                with ThreadPoolExecutor(1) as pool:
                    self.compiled[resized] = pool.submit(self._compile_in_thread, resized).result()
            return self.compiled[resized]

    def _compile_in_thread(self, resized: bool) -> openvino.CompiledModel:
        import openvino

        core = openvino.Core()
        model = core.read_model(self.path)
        return core.compile_model(_skip_resize(model) if resized else model, "CPU", self.config)


def _skip_resize(model: openvino.Model) -> openvino.Model:
    """Return the part of a graph after its resize, with the resized crops as its input."""
    import openvino

    outputs = [output for operation in model.get_ordered_ops() for output in operation.outputs()]
    crops = next(output for output in outputs if CROPS in output.get_names())
    parameter = openvino.opset13.parameter(crops.get_partial_shape(), crops.get_element_type())
    # of the original input, the rest of the graph reads only the number of images
    for consumer in crops.get_target_inputs() | model.input(0).get_target_inputs():
        consumer.replace_source_output(parameter.output(0))
    return openvino.Model(model.get_results(), [parameter])

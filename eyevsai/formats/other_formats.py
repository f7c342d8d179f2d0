"""File formats of other tools, and the export format that serves in their place."""

from __future__ import annotations

import re
from collections.abc import Iterable

# sentence, with the fix, by the words for a format, in lower case and without punctuation
MOBILE = (
    "ONNX Runtime Mobile runs the onnx export on Android and iOS: use --format onnx, or onnx-int8 "
    "for a smaller file."
)
CONVERTIBLE = "Its own tools convert the onnx export: use --format onnx."
PICKLED = "Pickled estimators can run code when they are opened: use --format onnx."
REPLACEMENTS = (
    ("tflite litert tensorflowlite tfl coreml mlmodel mlpackage executorch pte lite", MOBILE),
    ("qnn snpe nnapi xnnpack dlc", MOBILE),
    ("ncnn mnn rknn tnn paddle paddlepaddle hailo tvm", CONVERTIBLE),
    (
        "ort ortmobile onnxruntime",
        "ONNX Runtime opens the onnx export, and python -m "
        "onnxruntime.tools.convert_onnx_models_to_ort converts it to .ort: use --format onnx.",
    ),
    (
        "tfjs tensorflowjs web wasm webgpu",
        "ONNX Runtime Web runs the onnx export in a browser: use --format onnx.",
    ),
    (
        "savedmodel tfsavedmodel tf tf2 pb graphdef frozengraph keras h5 hdf5",
        "TensorFlow opens the SavedModel of the tensorflow export: use --format tensorflow.",
    ),
    (
        "trt engine plan tensorrtengine onnxtrt",
        "TensorRT builds its engine from the tensorrt export: use --format tensorrt.",
    ),
    (
        "ts jit torchjit script scripted traced trace ptl libtorch",
        "libtorch opens the torchscript export: use --format torchscript.",
    ),
    (
        "torchexport exportedprogram aot aoti aotinductor",
        "torch.export.load opens the pt2 export: use --format pt2.",
    ),
    (
        "torch pt pth statedict safetensors ckpt checkpoint huggingface hf timm",
        "A state dict and safetensors are part of the pytorch export: use --format pytorch.",
    ),
    (
        "int8 uint8 quantized quantised int quant",
        "onnx-int8 computes in 8 bits: use --format onnx-int8.",
    ),
    (
        "bf16 bfloat16 fp16 float16 half",
        "openvino-bf16 computes in 16 bits: use --format openvino-bf16.",
    ),
    ("ov ir xml vino", "OpenVINO opens the openvino export: use --format openvino."),
    ("pickle pkl joblib sklearn scikitlearn skops pmml dill", PICKLED),
    (
        "mlflow pyfunc mlflowmodel",
        "Each version is an MLflow model already: mlflow models serve and eyevsai.load open it.",
    ),
)


def explain_format(name: str, formats: Iterable[str]) -> str | None:
    """Return the sentence for another tool's format, or for another spelling of one of `formats`.

    None if the name is unknown.
    """
    word = _simplify(name)
    for format_ in formats:
        if word == _simplify(format_):
            return f"Use --format {format_}."
    return next((text for words, text in REPLACEMENTS if word in words.split()), None)


def _simplify(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())

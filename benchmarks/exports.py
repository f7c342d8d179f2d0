"""Prediction speed of each export and of eager PyTorch, and duration of exports.

Prediction: images per second for batches of 16, measured alternately; the median is reported. Eager
is the network without eyevsai: float32, NCHW, no gradients, from a tensor in memory. The learner
and the exports predict resized images through eyevsai, as `predict` does. Limits: onnx, which
serves model versions, and openvino at least 1.8 x eager; openvino-bf16 3 x eager on a CPU with
AVX512-BF16; onnx-int8 1.5 x onnx.

Export of deep_v1 at 128 px, parity checks included. Limits: 40 s for onnx, and 4 minutes for all
formats.

JPEG files per second that a shallow model reads and classifies through ONNX. Requires photographs.
Limit: at least 400.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.photographs import are_missing, load_union

BATCH, ROUNDS = 16, 7
NETWORKS = [
    ("transfer", "resnet50", 224),
    ("transfer", "mobilenet_v2", 224),
    ("deep_v1", "standard", 128),
]
TIMED = ("onnx", "onnx-int8", "openvino", "openvino-bf16", "pt2", "torchscript", "tensorflow")
MIN_TURN_S = 0.5  # minimum seconds of one measurement


def _source(family: str, variation: str, size: int):  # type: ignore[no-untyped-def]
    from eyevsai.formats.base import ExportSource
    from eyevsai.models.factory import build, get_family

    settings: Any = get_family(family).variations[variation].settings
    weights = {"weights": "none"} if family == "transfer" else {}
    learner = build(
        family, variation, settings(image_size=size, **weights), tuple(map(str, range(60))), seed=0
    )
    side = learner.preprocessing.short_side_px
    images = np.random.default_rng(0).integers(0, 256, (4 * BATCH, side, side, 3), dtype=np.uint8)
    return ExportSource(learner, "0" * 64, None, lambda: images)


def _eager(source) -> Callable[[], object]:  # type: ignore[no-untyped-def]
    import copy

    import torch

    learner = source.learner
    network = copy.deepcopy(learner.network).to(memory_format=torch.contiguous_format).eval()
    crops = learner.preprocessing.crop(torch.from_numpy(source.calibration()[:BATCH]))
    batch = learner.preprocessing.normalize(crops).contiguous()

    def predict() -> object:
        with torch.no_grad():
            return network(batch).softmax(1)

    return predict


def _rate(predict: Callable[[], object]) -> float:
    """Return images per second of a function that predicts one batch."""
    start, turns = time.perf_counter(), 0
    while time.perf_counter() - start < MIN_TURN_S:
        predict()
        turns += 1
    return turns * BATCH / (time.perf_counter() - start)


def measure_speed(family: str, variation: str, size: int) -> None:
    """Print the prediction speed of eager PyTorch, the learner and all exports of one network."""
    from eyevsai.formats.factory import get_format
    from eyevsai.formats.load import ExportedModel

    source = _source(family, variation, size)
    learner, images = source.learner, source.calibration()[:BATCH]
    about = {"classes": learner.classes, "preprocessing": learner.preprocessing.to_json()}
    with tempfile.TemporaryDirectory() as root:
        works: dict[str, Callable[[], object]] = {
            "eager": _eager(source),
            "learner": lambda: learner.predict_proba(list(images)),
        }
        for name in TIMED:
            folder = Path(root) / name
            folder.mkdir()
            export_format = get_format(name)
            export_format.write(source, folder)
            model = ExportedModel(about, export_format.open(folder))
            works[name] = lambda model=model: model.predict_proba(images)  # type: ignore[misc]
        rates: dict[str, list[float]] = {name: [] for name in works}
        for work in works.values():
            work()
        for _ in range(ROUNDS):
            for name, work in works.items():
                rates[name].append(_rate(work))
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{family}/{variation} at {size} px", flush=True)
    for name, rate in median.items():
        print(
            f"  {name:<15}{rate:8.1f} images/s   {rate / median['eager']:5.2f} x eager   "
            f"({min(rates[name]):.1f} to {max(rates[name]):.1f})",
            flush=True,
        )
    print(f"  onnx-int8 / onnx {median['onnx-int8'] / median['onnx']:.2f}")


def measure_exporting() -> None:
    """Print the seconds of each export of deep_v1 at 128 px.

    Each includes the parity check on 200 images of 500 x 375 pixels.
    """
    from eyevsai.formats.export import export
    from eyevsai.formats.factory import FORMATS
    from eyevsai.formats.parity import ReferenceData

    source = _source("deep_v1", "standard", 128)
    side, random = source.learner.preprocessing.short_side_px, np.random.default_rng(0)
    squares = random.integers(0, 256, (200, side, side, 3), dtype=np.uint8)
    raw = [random.integers(0, 256, (375, 500, 3), dtype=np.uint8) for _ in range(200)]
    labels = source.learner.predict_proba(list(squares)).argmax(1)
    references = ReferenceData(
        source.learner,
        [str(number) for number in range(200)],
        squares,
        lambda: raw,
        lambda: [(squares, labels)],
    )
    total = 0.0
    with tempfile.TemporaryDirectory() as root:
        for name in FORMATS:
            start = time.perf_counter()
            export(name, source, references, Path(root) / name, "models:/benchmark/1")
            seconds = time.perf_counter() - start
            total += seconds
            print(
                f"  {name:<15}{seconds:6.1f} s{'   (limit 40 s)' if name == 'onnx' else ''}",
                flush=True,
            )
    print(f"  all formats    {total:6.1f} s   (limit 240 s)")


def measure_shallow() -> None:
    """Print the JPEG files per second that the ONNX export of svm_hog_lbp classifies.

    The model is fitted to the union of the photographs.
    """
    from eyevsai.formats.base import ExportSource
    from eyevsai.formats.export import export
    from eyevsai.formats.parity import ReferenceData
    from eyevsai.models.factory import build, get_family
    from eyevsai.workflows.predict import predict

    dataset = load_union()
    settings = get_family("shallow").variations["svm_hog_lbp"].settings()
    learner = build("shallow", "svm_hog_lbp", settings, dataset.classes, seed=0)
    data = dataset.open(learner.preprocessing)
    learner.fit(data.train, data.valid, lambda epoch, row: None)
    files = [
        item.file.path
        for item in dataset.samples
        if item.file.path.suffix.lower() in (".jpg", ".jpeg")
    ]
    squares = np.stack(
        [
            learner.preprocessing.center_square(image[None])[0].numpy()
            for image in data.test.images(range(32))
        ]
    )
    references = ReferenceData(
        learner, [str(number) for number in range(32)], squares, lambda: squares, lambda: []
    )
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "onnx"
        export(
            "onnx",
            ExportSource(learner, "0" * 64, None, lambda: squares),
            references,
            folder,
            "models:/benchmark/1",
        )
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            count = sum(1 for _ in predict(str(folder), files, 1, None))
            rates.append(count / (time.perf_counter() - start))
    print(
        f"shallow/svm_hog_lbp, {len(files)} JPEG files through ONNX: "
        f"{statistics.median(rates):.0f} images/s "
        f"({', '.join(f'{rate:.0f}' for rate in rates)}; limit 400)"
    )


def main() -> None:
    for network in NETWORKS:
        measure_speed(*network)
    print("export of deep_v1/standard at 128 px, parity checks included")
    measure_exporting()
    if not are_missing():
        measure_shallow()

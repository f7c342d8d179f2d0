"""Speed of prediction without an export.

shallow  `Classifier.predict_batch` of 1,024 photographs with the SVM and the forest of the 60-class
         union, compared with their ONNX export; alternately, median of the rounds. Limits: at least
         0.9 of the images per second; probabilities of the SVM equal to 1e-6. Requires photographs.
digit    `Classifier.predict` of one digit, a path, with deep_v1 at 32 px, and its network alone.
         Limit: 0.75 ms.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.photographs import are_missing, load_union

IMAGES, ROUNDS, DIGITS = 1_024, 5, 1_000


def measure_shallow(variation: str) -> None:
    """Print the images per second of a variation without and with export, and their difference."""
    from eyevsai.formats.base import ExportSource
    from eyevsai.formats.factory import get_format
    from eyevsai.formats.load import ExportedModel
    from eyevsai.models.factory import build, get_family
    from eyevsai.serving.classifier import Classifier, make_classifier

    dataset = load_union()
    settings = get_family("shallow").variations[variation].settings()
    learner = build("shallow", variation, settings, dataset.classes, seed=0)
    data = dataset.open(learner.preprocessing)
    learner.fit(data.train, data.valid, lambda epoch, row: None)
    about = {"classes": learner.classes, "preprocessing": learner.preprocessing.to_json()}
    samples = dataset.samples[:: max(1, len(dataset.samples) // IMAGES)][:IMAGES]
    images = [sample.file.path.read_bytes() for sample in samples]
    with tempfile.TemporaryDirectory() as folder:
        onnx = get_format("onnx")
        source = ExportSource(learner, "0" * 64, None, lambda: np.zeros((0, 1, 1, 3), np.uint8))
        onnx.write(source, Path(folder))
        exported = ExportedModel(about, onnx.open(Path(folder)))
        classifiers = {"plain": make_classifier(learner), "onnx": Classifier(exported, about)}
        rates: dict[str, list[float]] = {name: [] for name in classifiers}
        outputs = {}
        for _ in range(ROUNDS):
            for name, classifier in classifiers.items():
                start = time.perf_counter()
                predictions = classifier.predict_batch(images)
                rates[name].append(len(images) / (time.perf_counter() - start))
                outputs[name] = np.array([[*each.probabilities.values()] for each in predictions])
    for name, values in rates.items():
        print(
            f"shallow/{variation} {name:<6}{statistics.median(values):7.0f} images/s   "
            f"({', '.join(f'{value:.0f}' for value in values)})"
        )
    ratio = statistics.median(rates["plain"]) / statistics.median(rates["onnx"])
    differences = np.abs(outputs["plain"] - outputs["onnx"]).max(1)
    print(
        f"shallow/{variation} plain / onnx {ratio:.2f}   (limit 0.90); largest difference "
        f"{differences.max():.1g}, above 1e-6 in {(differences > 1e-6).sum()} images",
        flush=True,
    )


def measure_digit() -> None:
    """Print the milliseconds of one prediction, and of the network in it."""
    import torch

    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.settings import DataSettings
    from eyevsai.models.deep_v1.network import DeepV1Learner
    from eyevsai.models.deep_v1.settings import DeepV1Settings
    from eyevsai.serving.classifier import make_classifier

    dataset = load_dataset(DataSettings(dataset="digits"))
    learner: Any = DeepV1Learner("standard", DeepV1Settings(image_size=32), dataset.classes, 0)
    learner.network.eval()
    classifier, path = make_classifier(learner), dataset.samples[0].file.path
    batch = torch.zeros(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    whole, network = [], []
    for _ in range(DIGITS):
        start = time.perf_counter()
        classifier.predict(path)
        middle = time.perf_counter()
        with torch.inference_mode():
            learner.network(batch)
        whole.append(1000 * (middle - start))
        network.append(1000 * (time.perf_counter() - middle))
    print(
        f"deep_v1/standard, one digit: {statistics.median(whole):.2f} ms   (limit 0.75); network "
        f"alone {statistics.median(network):.2f} ms"
    )


def main() -> None:
    measure_digit()
    if not are_missing():
        for variation in ("svm_hog_lbp", "rf_hog_lbp"):
            measure_shallow(variation)

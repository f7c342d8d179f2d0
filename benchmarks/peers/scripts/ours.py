"""Tasks with eyevsai, in its own environment."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

BLOCKS = 5  # pairs of a training without and with logging, whose median difference counts


def _resnet18(settings: Any, classes: Sequence[str]) -> Any:
    """Return a learner whose network is torchvision's resnet18."""
    from torchvision.models import resnet18

    from eyevsai.models.deep_v1.network import DeepV1Learner

    class Resnet18Learner(DeepV1Learner):
        def build_network(self) -> Any:
            return resnet18(weights=None, num_classes=len(self.classes))

    return Resnet18Learner("standard", settings, tuple(classes), 0)


def epoch(
    data: str, size: int, batch: int, epochs: int, precision: str = "auto"
) -> dict[str, float]:
    """Train resnet18; return the seconds of each epoch, index and pixel cache in the first."""
    import torchvision  # noqa: F401

    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.settings import DataSettings
    from eyevsai.models.deep_v1.network import DeepV1Learner  # noqa: F401
    from eyevsai.models.deep_v1.settings import DeepV1Settings

    # the imports above are not measured
    ends = [time.perf_counter()]
    dataset = load_dataset(DataSettings(data=data, cache_dir=os.environ["EYEVSAI_CACHE"]))
    settings = DeepV1Settings(
        image_size=size,
        batch_size=batch,
        epochs=epochs,
        optimizer="adamw",  # all steps as the peers compute them, with images of the full size
        lr=1e-3,
        weight_decay=0.02,
        initial_scale=1.0,
        whitening=False,
        crop_scale=0.5,
        crop_share=1.0,
        translate=0.0,
        noise=0.0,
        random_erasing=0.0,
        warmup_epochs=0.0,
        precision=precision,
    )
    learner = _resnet18(settings, dataset.classes)
    opened = dataset.open(learner.preprocessing)
    learner.fit(opened.train, opened.valid, lambda *_: ends.append(time.perf_counter()))
    return {
        f"epoch_{number}": after - before
        for number, (before, after) in enumerate(zip(ends, ends[1:], strict=False))
    }


def features(data: str) -> dict[str, float]:
    """Return the seconds of features from files, and images per second from the pixel cache."""
    from eyevsai.data.dataset import load_test_folder
    from eyevsai.data.settings import DataSettings
    from eyevsai.models.shallow.learner import ShallowLearner
    from eyevsai.models.shallow.settings import SvmSettings

    start = time.perf_counter()
    dataset = load_test_folder(DataSettings(data=data, cache_dir=os.environ["EYEVSAI_CACHE"]))
    settings = SvmSettings(features="hog,lbp,color", lbp_neighbours="both")  # as the peer
    learner = ShallowLearner("svm_hog_lbp", settings, dataset.classes, 0)
    images = dataset.open(learner.preprocessing).test
    learner.extract(images)
    files_s = time.perf_counter() - start
    uncached = replace(images, cache=None)  # cached features would not be computed
    start = time.perf_counter()
    learner.extract(uncached)
    return {"files_s": files_s, "images_per_s": len(images) / (time.perf_counter() - start)}


def export(data: str, size: int, classes: int, images: int) -> dict[str, float]:
    """Export resnet18, parity check on 200 images included; predict files with the export."""
    import numpy as np

    from eyevsai.data.decode import decode
    from eyevsai.formats.base import ExportSource
    from eyevsai.formats.export import export as export_format
    from eyevsai.formats.parity import ReferenceData
    from eyevsai.models.deep_v1.settings import DeepV1Settings
    from eyevsai.workflows.predict import predict

    learner = _resnet18(DeepV1Settings(image_size=size), tuple(map(str, range(classes))))
    learner.network.eval()
    files = sorted(Path(data).glob("*/*.jpg"))[:images]
    start = time.perf_counter()
    checked = files[:: max(1, len(files) // 200)][:200]
    squares = np.stack([learner.preprocessing.resize_to_square(decode(path)) for path in checked])
    reference = ReferenceData(
        learner,
        [path.name for path in checked],
        squares,
        lambda: map(decode, checked),
        lambda: [],
    )
    source = ExportSource(learner, "0" * 64, None, lambda: squares)
    parity = export_format("onnx", source, reference, Path("onnx"), "models:/peers/1")
    exported = time.perf_counter()
    if parity.failures:
        raise SystemExit("; ".join(parity.failures))
    count = sum(prediction.error is None for prediction in predict("onnx", files, 1, None))
    if count != images:
        raise SystemExit(f"predicted {count} of {images} images")
    return {"export_s": exported - start, "predict_s": time.perf_counter() - exported}


def command_line(arguments: list[str], batch: int) -> dict[str, float]:
    """Run the command `eyevsai`; end at the first batch of a training."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    from eyevsai.cli.main import main

    def check(module: Any, inputs: Any) -> None:
        if module.training and inputs and getattr(inputs[0], "shape", (0,))[0] == batch:
            print(json.dumps({"values": {}}), flush=True)
            os._exit(0)

    register_module_forward_pre_hook(check)
    main(arguments)
    return {}


def tracking(store: str, epochs: int) -> dict[str, float]:
    """Return milliseconds per epoch that logging adds, all writes to the store included."""
    import numpy as np
    import torch

    from eyevsai.data.dataset import Split
    from eyevsai.data.pixel_cache import PixelCache
    from eyevsai.data.preprocessing import Preprocessing
    from eyevsai.models.deep_v1.settings import DeepV1Settings
    from eyevsai.store.backend import open_store
    from eyevsai.tracking.run_lifecycle import start_run
    from eyevsai.training.strategy import TrainingStrategy
    from eyevsai.training.trainer import Trainer

    os.environ["MLFLOW_TRACKING_URI"] = store
    side, count = Preprocessing(32).short_side_px, 64
    flat = np.random.default_rng(0).integers(0, 256, count * 3 * side**2, dtype=np.uint8)
    shapes = np.full((count, 2), side, dtype=np.int32)
    pixels = PixelCache(flat, shapes, np.arange(count, dtype=np.int64) * 3 * side**2)
    split = Split(pixels, range(count), torch.arange(count) % 2)

    def seconds(epochs: int, run: Any = None) -> float:
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32**2, 2))
        settings = DeepV1Settings(image_size=32, batch_size=32, epochs=epochs, patience=0)
        trainer = Trainer(TrainingStrategy(network, settings), settings, Preprocessing(32), 0)

        def log(number: int, metrics: dict[str, float]) -> None:
            if run is not None:
                run.log_metrics(metrics, step=number)

        start = time.perf_counter()
        trainer.fit(split, split, log)
        if run is not None:
            run.flush()
        return time.perf_counter() - start

    differences = []
    with (
        tempfile.TemporaryDirectory() as state,
        start_run(open_store(), "peers", {"eyevsai.job": "benchmark"}, Path(state)) as run,
    ):
        run.flush()
        for number in range(BLOCKS + 1):  # the first one warms up
            plain = seconds(epochs)
            logged = seconds(epochs, run)
            if number:
                differences.append(1000 * (logged - plain) / epochs)
    return {"epoch_ms": statistics.median(differences)}


def tuning(
    data: str, size: int, *, epochs: int, trials: int, target: float, seed: int
) -> dict[str, float]:
    """Return the seconds until a trial reaches the target accuracy on the valid split."""
    import eyevsai

    start = time.perf_counter()
    tuned = eyevsai.tune(
        model="deep_v1",
        data=data,
        image_size=size,
        epochs=epochs,
        n_trials=trials,
        target_value=target,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    if tuned.accuracy < target:
        raise SystemExit(f"the best of {trials} trials is {tuned.accuracy:.4f}, below {target}")
    trials = sum(tuned.states.values())
    return {"target_s": seconds, "trials": trials, "accuracy": tuned.accuracy}


def test_accuracy(model: str) -> dict[str, float]:
    """Return the accuracy of a trained version on its test split, its ECE, and valid accuracy."""
    import eyevsai
    from eyevsai.store.uris import find_store
    from eyevsai.tracking.search import find_run

    evaluated = eyevsai.evaluate(model)
    training = find_run(find_store(), evaluated.run_id)
    return {
        "accuracy": evaluated.metrics["accuracy"],
        "ece": evaluated.metrics["ece"],
        "valid_accuracy": training.metrics["best_valid_accuracy"],
    }


def scale(data: str) -> dict[str, float]:
    """Return milliseconds per image of index, pixel cache, epoch and evaluation."""
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.settings import DataSettings
    from eyevsai.models.deep_v1.network import DeepV1Learner
    from eyevsai.models.deep_v1.settings import DeepV1Settings
    from eyevsai.workflows.evaluate.evaluate import _predict

    times = [time.perf_counter()]
    dataset = load_dataset(DataSettings(data=data, cache_dir=os.environ["EYEVSAI_CACHE"]))
    times.append(time.perf_counter())
    settings = DeepV1Settings(image_size=64, width=8, epochs=1)
    learner: Any = DeepV1Learner("standard", settings, dataset.classes, 0)
    opened = dataset.open(learner.preprocessing)
    times.append(time.perf_counter())
    learner.fit(opened.train, opened.valid, lambda *_: None)
    times.append(time.perf_counter())
    _predict(learner, opened.test.arrays(), "Predicting")
    times.append(time.perf_counter())
    counts = [len(dataset.samples)] * 3 + [len(opened.test)]
    names = ("index_ms", "cache_ms", "epoch_ms", "evaluate_ms")
    return {
        name: 1000 * (after - before) / count
        for name, count, before, after in zip(names, counts, times, times[1:], strict=False)
    }


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)

"""Training by time with fastai."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from time_budget import (  # type: ignore[import-not-found]
    Probe,
    TimeBudget,
    epoch_seconds,
    epochs_that_fit,
    fine_tuning_epochs,
)

SCRATCH_LR = 3e-3  # highest rate of one cycle; chapter 7 of fastai's book
HEAD_LR = 2e-3  # of the epoch of the head alone in `fine_tune`


def accuracy(
    data: str, size: int, batch: int, *, minutes: float, weights: str, seed: int, workers: int
) -> dict[str, float]:
    """Train for a number of minutes; return the accuracy on the test images.

    The settings are those of fastai's book. With weights: `vision_learner` and `fine_tune`, an
    epoch of the head alone included (chapter 5). From scratch: `Learner` and `fit_one_cycle`, with
    label smoothing (chapter 7). The epoch with the best accuracy on the valid images is kept.

    Args:
        data: folder with `train`, `val` and `test`.
        size: image size in pixels.
        batch: batch size.
        minutes: time of the training, from the start of the process.
        weights: weights file of tf_efficientnet_lite0 with timm's names; empty: from scratch.
        seed: seed of the new weights and of the batches.
        workers: number of processes that decode images.
    """
    from fastai.vision.all import SaveModelCallback, get_image_files, set_seed

    budget = TimeBudget(minutes)
    set_seed(seed)
    loaders = _load(data, size, batch, workers, is_normalized=not weights)
    counts = len(loaders.train_ds), len(loaders.valid_ds)
    learner = _build(loaders, weights)
    epochs, image_s = _plan(learner, budget, batch, counts, is_pretrained=bool(weights))
    set_seed(seed)
    learner = _build(loaders, weights)
    stop = _stop_callback(budget, image_s * counts[1])
    callbacks = [SaveModelCallback(monitor="accuracy"), stop]
    with learner.no_bar(), learner.no_logging():
        if not weights:
            learner.fit_one_cycle(epochs, SCRATCH_LR, cbs=callbacks)
        elif epochs == 1:
            learner.fit_one_cycle(1, HEAD_LR, cbs=callbacks)
        else:
            learner.fine_tune(epochs - 1, cbs=callbacks)
        train_s = budget.used_s
        test = learner.dls.test_dl(get_image_files(Path(data) / "test"), with_labels=True)
        share = float(learner.validate(dl=test)[1])
    stopped = float(stop.is_reached)
    return {"accuracy": share, "train_s": train_s, "epochs": epochs, "stopped": stopped}


def _load(data: str, size: int, batch: int, workers: int, *, is_normalized: bool) -> Any:
    """Return the loaders of the book: images are resized one by one, and augmented in batches."""
    from fastai.vision.all import (
        ImageDataLoaders,
        Normalize,
        Resize,
        aug_transforms,
        imagenet_stats,
    )

    transforms = list(aug_transforms(size=size, min_scale=0.75))
    if is_normalized:
        transforms.append(Normalize.from_stats(*imagenet_stats))
    return ImageDataLoaders.from_folder(
        data,
        train="train",
        valid="val",
        item_tfms=Resize(size * 4 // 3),
        batch_tfms=transforms,
        bs=batch,
        num_workers=workers,
    )


def _build(loaders: Any, weights: str) -> Any:
    """Return a learner of tf_efficientnet_lite0 with these weights, or else of a new resnet18.

    `vision_learner` adds the normalization of the weights to the loaders.
    """
    from fastai.vision.all import LabelSmoothingCrossEntropyFlat, Learner, vision_learner
    from fastai.vision.all import accuracy as metric
    from torchvision.models import resnet18

    if weights:
        return vision_learner(
            loaders,
            "tf_efficientnet_lite0",
            metrics=metric,
            path=Path.cwd(),
            pretrained_cfg_overlay={"file": weights},
        )
    network = resnet18(weights=None, num_classes=loaders.c)
    loss = LabelSmoothingCrossEntropyFlat(0.1)
    return Learner(loaders, network, loss_func=loss, metrics=metric, path=Path.cwd())


def _plan(
    learner: Any, budget: TimeBudget, batch: int, counts: tuple[int, int], *, is_pretrained: bool
) -> tuple[int, float]:
    """Return the number of epochs that fit, and the seconds per training image of most of them.

    Args:
        learner: a learner, whose weights change.
        budget: the time.
        batch: batch size.
        counts: number of training and of validation images.
        is_pretrained: the first epoch trains the head alone, as in `fine_tune`.
    """
    if not is_pretrained:
        image_s = _measure_image_s(learner, budget, batch)
        return max(1, int(epochs_that_fit(budget.left_s, image_s, *counts))), image_s
    learner.freeze()
    head_image_s = _measure_image_s(learner, budget, batch)
    head_s = epoch_seconds(head_image_s, *counts)
    if head_s >= budget.left_s:  # a second measurement would only take time
        return 1, head_image_s
    learner.unfreeze()
    image_s = _measure_image_s(learner, budget, batch)
    return fine_tuning_epochs(budget.left_s, head_s, image_s, *counts), image_s


def _measure_image_s(learner: Any, budget: TimeBudget, batch: int) -> float:
    """Return the seconds per training image of a learner, whose weights change."""
    from fastai.vision.all import Callback, CancelFitException

    probe = Probe(budget)

    class Clock(Callback):
        def after_batch(self) -> None:
            if self.training and probe.add_batch():
                raise CancelFitException

        def after_train(self) -> None:
            raise CancelFitException

    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-4, cbs=[Clock()])
    return float(probe.batch_s) / batch


def _stop_callback(budget: TimeBudget, valid_s: float) -> Any:
    """Return a callback that ends a training before its time is up; then `is_reached` is true.

    Args:
        budget: the time.
        valid_s: upper limit of the seconds of a validation, for which time is kept.
    """
    from fastai.vision.all import (
        Callback,
        CancelFitException,
        CancelTrainException,
        TrackerCallback,
    )

    class Stop(Callback):
        order = TrackerCallback.order + 10  # after the best epoch is stored
        is_reached = False

        def before_fit(self) -> None:
            if self.is_reached:
                raise CancelFitException

        def after_batch(self) -> None:
            if self.training and budget.left_s < valid_s:
                self.is_reached = True
                raise CancelTrainException

        def after_cancel_train(self) -> None:
            # SaveModelCallback needs the metrics of training, too
            self.learn.recorder.cancel_train = False

        def after_epoch(self) -> None:
            if self.is_reached:
                raise CancelFitException

    return Stop()


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)

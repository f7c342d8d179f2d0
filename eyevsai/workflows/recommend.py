"""Workflow of `recommend`: probe the families on the data and the machine, and rank them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eyevsai.config import TrainConfig, compose_train
from eyevsai.core.accelerator import has_cuda
from eyevsai.core.cores import count_cores
from eyevsai.core.extras import install_command
from eyevsai.core.progress import format_seconds
from eyevsai.core.quantities import format_count
from eyevsai.core.settings import format_flags
from eyevsai.core.shell import quote
from eyevsai.data.dataset import Dataset, load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.transfer.pretrained import is_at_hand
from eyevsai.models.transfer.settings import OFFLINE
from eyevsai.training.pace import TimeBudget
from eyevsai.workflows.train.probe import hiding_log, measure_shallow
from eyevsai.workflows.train.setup import adapt_image_size, adapt_to_size, limit_to_data
from eyevsai.workflows.train.time_plan import MIN_EPOCHS, TimePlan, plan_training

log = logging.getLogger("eyevsai")

SHALLOW, PLAIN, RESIDUAL = "shallow/svm_hog_lbp", "deep_v1/standard", "deep_v2/resnet"
# backbones in the order in which they are proposed; the first one needs no download
BACKBONES = ("efficientnet_lite0", "efficientnet_b0", "mobilenet_v2", "densenet121", "resnet50")
FEW_IMAGES = 20  # train images per class: fewer are too few for a network from scratch
UNBALANCED = 3.0  # ratio of the largest to the smallest class from which weights are proposed
SHORT_EPOCHS = 5  # of fine-tuning: enough for a pretrained network


@dataclass(frozen=True)
class Candidate:
    """Model that was probed, and what it is expected to do in the time."""

    model: str
    expected: str
    reason: str
    score: tuple[int, ...]  # the highest is recommended
    command: str


@dataclass(frozen=True)
class _Request:
    """Dataset to train on, settings of all commands, and what they depend on."""

    dataset: Dataset
    values: Mapping[str, Any]  # explicit settings of the dataset, and of unbalanced classes
    minutes: float
    described: Mapping[str, Any]


@dataclass(frozen=True)
class Recommendation:
    """Recommended models for a dataset and a machine, the best one first."""

    dataset: dict[str, Any]
    machine: str
    minutes: float
    candidates: list[Candidate]
    better: str  # a model whose weights are not on this machine, and how to get them; or empty
    notes: list[str]


def recommend(settings: DataSettings, values: Mapping[str, Any], minutes: float) -> Recommendation:
    """Probe each family for seconds, and return what to train on a dataset.

    Args:
        settings: settings of the dataset.
        values: the same, as far as they were set, by setting name; commands contain them.
        minutes: time budget of the training.

    Raises:
        UserError: the dataset cannot be used for training.
    """
    dataset = load_dataset(settings, logs_counts=False)  # they are a part of the result
    described = describe_dataset(dataset)
    notes = []
    weights: dict[str, Any] = {}
    if described["imbalance"] >= UNBALANCED:
        weights = {"class_weights": True}
        notes.append(
            f"The largest class is {described['imbalance']:.1f} times the smallest: "
            "--class-weights true counts all classes equally."
        )
    backbone = next((name for name in BACKBONES if is_at_hand(name)), None)
    networks = [PLAIN, RESIDUAL, *([f"transfer/{backbone}"] if backbone else [])]
    request = _Request(dataset, {**values, **weights}, minutes, described)
    candidates = [_probe_shallow(request), *(_probe_network(model, request) for model in networks)]
    candidates.sort(key=lambda each: each.score, reverse=True)
    device = "cuda" if has_cuda() else "cpu"
    return Recommendation(
        described,
        f"{device}, {count_cores()} CPU cores",
        minutes,
        candidates,
        "" if backbone else _describe_missing(request),
        notes,
    )


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return what the recommendation depends on: numbers of images and classes, size, balance."""
    counts = Counter(dataset.labels_of("train"))
    return {
        "name": dataset.name,
        "images": len(dataset.samples),
        "classes": len(dataset.classes),
        "train_images": sum(counts.values()),
        "short_side_px": dataset.median_short_side(),
        "imbalance": max(counts.values()) / min(counts.values()),
        "images_per_class": sum(counts.values()) / len(counts),
    }


def _probe_network(model: str, request: _Request) -> Candidate:
    log.info("Probing %s", model)
    config = _compose(model, request, {"minutes": request.minutes})
    with hiding_log():
        budget = TimeBudget(60 * request.minutes, time.monotonic())
        planned, plan = plan_training(config, request.dataset, budget)
    epochs = plan.epochs - plan.untimed_epochs
    num_epochs = format_count(epochs, "epoch")
    expected = f"about {num_epochs} at {plan.image_size} px"
    trains_head_only = not getattr(planned.model.settings, "fine_tune_epochs", 1)
    if trains_head_only or (plan.untimed_epochs and not epochs):
        expected = f"the head at {plan.image_size} px"
    elif plan.untimed_epochs:
        expected = f"the head, then {num_epochs} of fine-tuning at {plan.image_size} px"
    score, reason = _rate(model, plan, epochs, request.described)
    return Candidate(model, expected, reason, score, _command(model, request, request.minutes))


def _rate(
    model: str, plan: TimePlan, epochs: int, described: Mapping[str, Any]
) -> tuple[tuple[int, ...], str]:
    """Return the score of a network, and the reason for it."""
    if model.startswith("transfer/"):
        if epochs >= SHORT_EPOCHS:
            return (5, epochs), "pretrained on ImageNet: the most accurate for photographs"
        return (4, epochs), "pretrained on ImageNet: accurate, even with little fine-tuning"
    if described["images_per_class"] < FEW_IMAGES:
        return (
            (0, epochs),
            f"from scratch: {described['images_per_class']:.0f} train images per class are few",
        )
    if epochs < MIN_EPOCHS:
        return (1, epochs), f"from scratch: less than {MIN_EPOCHS} epochs fit into the time"
    if model == PLAIN:
        return (3, plan.image_size), "from scratch: the most accurate in a few minutes"
    return (2, plan.image_size), "from scratch: about as accurate as deep_v1 in 20 minutes"


def _probe_shallow(request: _Request) -> Candidate:
    log.info("Probing %s", SHALLOW)
    with hiding_log():
        seconds = measure_shallow(_compose(SHALLOW, request, {}), request.dataset)
    is_best = request.described["images_per_class"] < FEW_IMAGES
    reason = "handcrafted features: networks from scratch need more images"
    return Candidate(
        SHALLOW,
        f"about {format_seconds(seconds)}",
        reason if is_best else "handcrafted features: done soon, less accurate for photographs",
        (2 if is_best else 1, 0),
        _command(SHALLOW, request, None),
    )


def _compose(model: str, request: _Request, settings: Mapping[str, Any]) -> TrainConfig:
    config = compose_train({**request.values, **settings, "model": model})
    with hiding_log():
        config = adapt_image_size(config, request.dataset)
        config = adapt_to_size(config, request.described["train_images"])
    return limit_to_data(config, request.described["train_images"])


def _command(model: str, request: _Request, minutes: float | None) -> str:
    """Return the command that trains a model, quoted for a shell."""
    settings = {**request.values, "model": model}
    if minutes is not None:
        settings["minutes"] = f"{minutes:g}"
    folder = settings.pop("data", None)
    first = "" if folder is None else f"{quote(str(folder))} "
    return f"eyevsai train {first}{format_flags(settings)}"


def _describe_missing(request: _Request) -> str:
    model = f"transfer/{BACKBONES[0]}"
    return (
        f"{model}, pretrained on ImageNet, is the better choice for photographs, but its weights "
        f"are not on this machine. Get them with `{install_command(OFFLINE)}`, then: "
        f"`{_command(model, request, request.minutes)}`"
    )

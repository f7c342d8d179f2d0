"""A version that classifies stripes, with enough test images for a drift reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import SMALL, copy_store, draw_image, write_images
from tests.invoke import invoke

CLASSES = ("across", "down", "wide")
COUNTS = dict.fromkeys(CLASSES, 100)
NAME = "stripes-deep_v1-standard"
VERSION = f"{NAME}/1"


def train_version(folder: Path, template_store: Path, cache_dir: Path) -> partial[Any]:
    """Train a version of `NAME` in a store in an empty folder.

    Args:
        folder: folder of the store and the images.
        template_store: store whose tables exist.
        cache_dir: cache of the session.

    Returns:
        Function that runs a command of eyevsai with this store; its keywords are the environment.
    """
    copy_store(template_store, folder)
    images = write_images(folder / "data" / "stripes", COUNTS)
    env = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "EYEVSAI_CACHE": str(cache_dir),
        "EYEVSAI_STATE": str(folder / "state"),
    }
    run = partial(invoke, folder, **env)
    flags = (*SMALL, "--epochs", "8", "--test-fraction", "0.4")
    run("train", "--model", "deep_v1", "--data", str(images), *flags)
    return run


def evaluate_and_promote(run: Callable[..., Any]) -> None:
    """Evaluate the version on its test split, which gives the reference, and promote it."""
    run("evaluate", VERSION, "--corruption-images", "0")
    run("promote", VERSION, "--reason", "a test")


def draw(count: int, start: int, *, is_shifted: bool = False) -> tuple[list[np.ndarray], list[str]]:
    """Return images of all classes in turn, and their classes; shifted ones are dark negatives."""
    images = [draw_image(index % 3, start + index // 3) for index in range(count)]
    if is_shifted:
        images = [(255 - image) // 2 for image in images]
    return images, [CLASSES[index % 3] for index in range(count)]

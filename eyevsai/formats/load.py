"""Opened exports that classify images of any sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eyevsai.core.errors import UserError, first_line
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import Pixels, Runtime
from eyevsai.formats.factory import get_format
from eyevsai.formats.manifest import MANIFEST, check_manifest, read_manifest
from eyevsai.formats.manifest_schema import EXPORT_AGAIN
from eyevsai.models.learner import Images

BATCH_SIZE = 16  # the activations of so many images fit into the caches of a CPU


class ExportedModel:
    """Opened export and its manifest.

    Images are resized to squares of one size before they are batched, as in training. The export's
    own resize leaves such images unchanged.
    """

    def __init__(self, manifest: Mapping[str, Any], runtime: Runtime) -> None:
        self.manifest, self.runtime = manifest, runtime
        self.preprocessing = Preprocessing.from_json(manifest["preprocessing"])
        self._num_classes = len(manifest["classes"])

    def predict_proba(self, images: Images) -> Probabilities:
        """Return float32 probabilities (N,C) of N uint8 RGB images of any sizes.

        Raises:
            UserError: the runtime fails, or returns another number of probabilities than the
                manifest has classes.
        """
        batches = [
            self._predict_batch(images[start : start + BATCH_SIZE])
            for start in range(0, len(images), BATCH_SIZE)
        ]
        # a copy, because some runtimes reuse the memory of their outputs
        return np.concatenate([np.zeros((0, self._num_classes), dtype=np.float32), *batches])

    def _predict_batch(self, images: Images) -> Probabilities:
        squares = [self.preprocessing.resize_to_square(image) for image in images]
        probabilities = self._predict_squares(
            squares[0][None] if len(squares) == 1 else np.stack(squares)
        )
        if probabilities.shape[1:] != (self._num_classes,):
            raise UserError(
                f"The export returns {probabilities.shape[1]} probabilities per image, but its "
                f"{MANIFEST} lists {self._num_classes} classes: one of the two was changed. "
                f"{EXPORT_AGAIN}"
            )
        return probabilities

    @torch.inference_mode()
    def _predict_squares(self, squares: Pixels) -> Probabilities:
        try:
            return self.runtime.predict_proba(squares)
        except Exception as error:
            # each runtime raises its own types of errors, and some detect an invalid file only here
            raise UserError(
                f"The {self.manifest.get('format')} export cannot predict: {first_line(error)}"
            ) from error


def load_export(folder: Path, *, trusted: bool = False) -> ExportedModel:
    """Open the export in a folder, after its files were compared with their checksums.

    Raises:
        UserError: the folder contains no valid export, the export was changed, its runtime is not
            installed, or its format can contain code and `trusted` is False.
    """
    manifest = read_manifest(folder)
    format_ = get_format(manifest["format"])
    format_.check_installed()
    if format_.can_hold_code and not trusted:
        raise UserError(
            f"{folder} is a {format_.name} export, which can contain code that runs when it is "
            "opened or predicts. If you made it yourself, use predict --trusted, or in Python "
            "eyevsai.load(..., trusted=True). Otherwise use the onnx export, which contains no "
            "code."
        )
    try:
        runtime = format_.open(folder)
        check_manifest(folder, manifest, format_.describe(runtime))
        return ExportedModel(manifest, runtime)
    except UserError:
        raise
    except Exception as error:
        # each runtime raises its own types of errors for an invalid file
        raise UserError(
            f"{folder} contains no valid {format_.name} export: {first_line(error)}"
        ) from error

"""An export, opened to classify images of any sizes."""

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
from eyevsai.models.learner import Images

AT_ONCE = 16  # images for which what is computed stays in the caches of a CPU


class ExportedModel:
    """Images are resized here, as in training, so that they make batches; the export's own resize
    leaves them alone.
    """

    def __init__(self, manifest: Mapping[str, Any], runtime: Runtime) -> None:
        self.manifest, self.runtime = manifest, runtime
        self.preprocessing = Preprocessing.from_json(manifest["preprocessing"])

    @torch.inference_mode()
    def predict_proba(self, images: Images) -> Probabilities:
        """N images uint8 RGB of any size -> N,C float32 probabilities."""
        found = [np.zeros((0, len(self.manifest["classes"])), dtype=np.float32)]
        for start in range(0, len(images), AT_ONCE):
            squares = [
                self.preprocessing.resize_to_square(image)
                for image in images[start : start + AT_ONCE]
            ]
            found.append(self._predict_squares(np.stack(squares)))
            if found[-1].shape[1:] != found[0].shape[1:]:
                raise UserError(
                    f"The export gives {found[-1].shape[1]} numbers for each image, but its "
                    f"{MANIFEST} names {found[0].shape[1]} classes: one of the two was changed."
                )
        return np.concatenate(found)

    def _predict_squares(self, squares: Pixels) -> Probabilities:
        try:
            return self.runtime.predict_proba(squares)
        except Exception as error:
            # each runtime has errors of its own, and some find a bad file only now
            raise UserError(
                f"The {self.manifest.get('format')} export cannot be computed: {first_line(error)}"
            ) from error


def load_export(folder: Path, *, trusted: bool = False) -> ExportedModel:
    """The export that `folder` holds, its files held against their checksums.

    Raises:
        UserError: it holds none, one that was changed, one whose runtime is not installed, or,
            unless `trusted`, one that could run code as it is opened.
    """
    manifest = read_manifest(folder)
    form = get_format(manifest["format"])
    form.check_installed()
    if form.can_hold_code and not trusted:
        raise UserError(
            f"{folder} is a {form.name} export, in which code can be hidden that runs as it is "
            "opened or asked. If you made it yourself, open it with predict --trusted, or in "
            "Python with eyevsai.load(..., trusted=True); else take the onnx export, which "
            "holds none."
        )
    try:
        runtime = form.open(folder)
        check_manifest(folder, manifest, form.describe(runtime))
        return ExportedModel(manifest, runtime)
    except UserError:
        raise
    except Exception as error:
        # each runtime has errors of its own for a file that is none of its own
        raise UserError(
            f"{folder} holds no {form.name} export that can be opened: {first_line(error)}"
        ) from error

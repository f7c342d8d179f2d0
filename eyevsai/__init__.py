"""eyevsai: image classifiers that are tuned, trained, exported and looked after with MLflow.

import eyevsai
classifier = eyevsai.load("models:/digits-deep_v1-standard/1")
classifier.predict("seven.png").label
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eyevsai.version import VERSION

if TYPE_CHECKING:
    from eyevsai.serving.classifier import Classifier, Prediction

__version__ = VERSION
__all__ = ["Classifier", "Prediction", "__version__", "load"]


def load(uri: str, *, trusted: bool = False) -> Classifier:
    """The classifier at a model URI (`models:/name/7`, `models:/name@alias`), of an export, or in a folder of either.

    Exports as pt2, torchscript and tensorflow can hold code, and are opened only if they are `trusted`.

    Raises:
        eyevsai.errors.UserError: nothing is there, or it is not a model that eyevsai wrote.
    """
    from eyevsai.serving.classifier import load_classifier  # torch and mlflow load only when asked for

    return load_classifier(uri, trusted=trusted)


def __getattr__(name: str) -> object:
    if name in ("Classifier", "Prediction"):
        from eyevsai.serving import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module 'eyevsai' has no attribute {name!r}")

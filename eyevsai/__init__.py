"""Image classifiers: tuning, training, export and life cycle with MLflow.

    import eyevsai
    trained = eyevsai.train(model="deep_v1", dataset="digits", epochs=3)
    classifier = eyevsai.load(trained.model_uri)
    classifier.predict("seven.png").label

Importing the package loads neither torch nor mlflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from eyevsai.core.version import VERSION

if TYPE_CHECKING:
    import os

    from eyevsai.api import compare, evaluate, export, train, tune
    from eyevsai.core.errors import JobError, UserError
    from eyevsai.serving.classifier import Classifier, Prediction
    from eyevsai.serving.client import Client, ServedPrediction
    from eyevsai.workflows.evaluate.compare import Comparison
    from eyevsai.workflows.evaluate.evaluate import Evaluated
    from eyevsai.workflows.export.bundle import Bundled
    from eyevsai.workflows.export.export import Exported
    from eyevsai.workflows.train.train import Trained
    from eyevsai.workflows.tune.tune import Tuned

__version__ = VERSION
__all__ = [
    "Bundled",
    "Classifier",
    "Client",
    "Comparison",
    "Evaluated",
    "Exported",
    "JobError",
    "Prediction",
    "ServedPrediction",
    "Trained",
    "Tuned",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "export",
    "load",
    "train",
    "tune",
]

# Modules by name, imported on first access: `import eyevsai` must load neither torch nor mlflow.
_LAZY_IMPORTS = {
    "Classifier": "serving.classifier",
    "Prediction": "serving.classifier",
    "Client": "serving.client",
    "ServedPrediction": "serving.client",
    "JobError": "core.errors",
    "UserError": "core.errors",
    "Trained": "workflows.train.train",
    "Tuned": "workflows.tune.tune",
    "Evaluated": "workflows.evaluate.evaluate",
    "Comparison": "workflows.evaluate.compare",
    "Exported": "workflows.export.export",
    "Bundled": "workflows.export.bundle",
    "train": "api",
    "tune": "api",
    "evaluate": "api",
    "compare": "api",
    "export": "api",
}


def load(uri: str | os.PathLike[str], *, trusted: bool = False) -> Classifier:
    """Load a classifier from a registered version, a run, an export, or a folder with either.

        eyevsai.load("digits-deep_v1-standard/1").predict("seven.png").top(3)

    Args:
        uri: `NAME/7`, `NAME@alias` or `NAME/Production`, with or without `models:/`, a run id, the
            URI of an export, or a local folder, also as a `Path`.
        trusted: open exports as pt2, torchscript or tensorflow, too. These can contain code, which
            runs when they are opened.

    Raises:
        UserError: no model exists at `uri`, or eyevsai did not write it.
    """
    # Imported here so that `import eyevsai` loads neither torch nor mlflow.
    from eyevsai.core.model_ref import to_text
    from eyevsai.serving.classifier import load_classifier

    return load_classifier(to_text(uri), trusted=trusted)


def __getattr__(name: str) -> object:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'eyevsai' has no attribute {name!r}")
    return getattr(import_module(f"eyevsai.{_LAZY_IMPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

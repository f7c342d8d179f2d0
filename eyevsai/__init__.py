"""eyevsai: image classifiers that are tuned, trained, exported and looked after with MLflow.

import eyevsai
trained = eyevsai.train(model="deep_v1", dataset="digits", epochs=3)
classifier = eyevsai.load(trained.model_uri)
classifier.predict("seven.png").label
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from eyevsai.core.version import VERSION

if TYPE_CHECKING:
    from eyevsai.api import compare, evaluate, export, train, tune
    from eyevsai.core.errors import JobError, UserError
    from eyevsai.serving.classifier import Classifier, Prediction
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
    "Comparison",
    "Evaluated",
    "Exported",
    "JobError",
    "Prediction",
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

# imported when they are asked for: `import eyevsai` loads neither torch nor mlflow
_LAZY_IMPORTS = {
    "Classifier": "serving.classifier",
    "Prediction": "serving.classifier",
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


def load(uri: str, *, trusted: bool = False) -> Classifier:
    """The classifier at a model URI (`models:/name/7`, `models:/name@alias`), of an export, or in a
    folder of either.

    Exports as pt2, torchscript and tensorflow can hold code, and are opened only if they are
    `trusted`.

        eyevsai.load("models:/digits-deep_v1-standard/1").predict("seven.png").top(3)

    Raises:
        eyevsai.core.errors.UserError: nothing is there, or it is not a model that eyevsai wrote.
    """
    # torch and mlflow load only when asked for
    from eyevsai.serving.classifier import load_classifier

    return load_classifier(uri, trusted=trusted)


def __getattr__(name: str) -> object:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'eyevsai' has no attribute {name!r}")
    return getattr(import_module(f"eyevsai.{_LAZY_IMPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The folder that a registered version holds: written here, and checked here before anything opens
it.

MLflow imports whatever module a model folder names and runs its `code/`; so a folder is first held
against the list of what ours contain, and everything else is refused.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError, read_error
from eyevsai.core.hashing import hash_file
from eyevsai.core.version import VERSION
from eyevsai.data.dataset import Split
from eyevsai.formats.export import EXAMPLE
from eyevsai.formats.manifest import MANIFEST
from eyevsai.formats.onnx import MODEL
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import CONFIG, WEIGHTS, save
from eyevsai.serving.fetching import fetch_artifacts

LOADER = "eyevsai.serving.pyfunc"
MODEL_FOLDER = "data/model"
SERVED = "onnx"  # the format that a version carries, once it was exported, and is then served by
EXPORT_FOLDER = f"{MODEL_FOLDER}/{SERVED}"
ALLOWED = frozenset(
    {
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "registered_model_meta",
        "input_example.json",
        "serving_input_example.json",
        f"{MODEL_FOLDER}/{WEIGHTS}",
        f"{MODEL_FOLDER}/{CONFIG}",
        *(f"{EXPORT_FOLDER}/{name}" for name in (MODEL, MANIFEST, EXAMPLE)),
    }
)
REQUIREMENTS = ("mlflow", "torch", "torchvision", "numpy", "pillow", "safetensors")


def write_model_dir(
    learner: Learner, example: Split, folder: Path, metadata: dict[str, Any]
) -> Path:
    """Writes the learner as an MLflow pyfunc model into `folder/package` and returns that folder.

    The first image of `example` becomes the input example.
    """
    import mlflow.pyfunc
    import pandas as pd

    save(learner, folder / "model")
    image = next(example.images([0])).numpy()
    mlflow.pyfunc.save_model(
        path=folder / "package",
        loader_module=LOADER,
        data_path=str(folder / "model"),
        signature=_signature(),
        input_example=pd.DataFrame({"image": [_encode(image)]}),
        pip_requirements=_requirements(),
        metadata=metadata,
    )
    return folder / "package"


def fetch_model_dir(uri: str, *, fresh: bool = False) -> Path:
    """The model folder of `models:/...` or `runs:/...`, fetched from the store if need be, and
    checked.

    With `fresh`, files of a remote store are downloaded even if the cache has them.

    Raises:
        UserError: it cannot be had, or is not what eyevsai writes.
    """
    from eyevsai.tracking.backfill import RECORD

    folder = fetch_artifacts(uri, fresh=fresh)
    if (folder / RECORD).is_file() and not (folder / "MLmodel").is_file():
        raise UserError(
            f"{uri} was imported: the store has the record of its training but no model. The "
            "original's is a pickle, which eyevsai never opens: train it again."
        )
    check_model_dir(folder)
    return folder


def hash_model_dir(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model folder, except exports, whose manifest has them,
    and MLflow's notes.

    Raises:
        UserError: a file cannot be read.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    try:
        return {name: hash_file(path) for name, path in files.items() if not _is_added_later(name)}
    except OSError as error:
        raise read_error(error.filename, error) from error


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Verify that the files of a model folder are those that `hash_model_dir` saw.

    Raises:
        UserError: one was changed, is missing or was added.
    """
    found = hash_model_dir(folder)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            how = (
                "is missing"
                if name not in found
                else "was added"
                if name not in expected
                else "was changed"
            )
            raise UserError(
                f"{folder / name} {how} since the version was registered (SHA-256). "
                "Restore it from a backup, or train the model again."
            )


def _is_added_later(name: str) -> bool:
    return name == "registered_model_meta" or name.startswith(f"{EXPORT_FOLDER}/")


def check_model_dir(folder: Path) -> None:
    """Refuses a model folder that holds anything which eyevsai does not write.

    Raises:
        UserError: naming the file or the entry that does not belong there.
    """
    if not (folder / "MLmodel").is_file():
        raise UserError(
            f"{folder} is no model folder: it holds no MLmodel. Give that of a model or of an "
            "export, models:/NAME/VERSION or models:/NAME@ALIAS."
        )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (not path.is_dir() and name not in ALLOWED):
            raise UserError(
                f"{folder} is refused: {name} is not part of an eyevsai model. Nothing in it "
                "was run."
            )
    flavors = _read_entry(folder, "flavors")
    described = flavors.get("python_function")
    loader = described.get("loader_module") if isinstance(described, dict) else None
    if set(flavors) != {"python_function"} or loader != LOADER:
        raise UserError(
            f"{folder} is refused: it is loaded by {loader or sorted(flavors)}, not by eyevsai."
        )
    if (
        flavors["python_function"].get("code")
        or flavors["python_function"].get("data") != MODEL_FOLDER
    ):
        raise UserError(f"{folder} is refused: its MLmodel names code or data of its own.")


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return what `write_model_dir` was given as `metadata`."""
    return _read_entry(folder, "metadata")


def _read_entry(folder: Path, name: str) -> dict[str, Any]:
    import yaml

    try:
        described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        return dict(described[name])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder} is no model folder: its MLmodel cannot be read ({error})."
        ) from error


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Map

    # No declared type holds bytes, base64, paths and arrays alike; the column is checked when it is
    # read.
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), "image")]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))


def _encode(image: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _requirements() -> list[str]:
    from importlib import metadata

    # 2.13.0+cpu is on no index
    public = {name: metadata.version(name).partition("+")[0] for name in REQUIREMENTS}
    return [f"eyevsai=={VERSION}", *(f"{name}=={version}" for name, version in public.items())]

"""Model directory of a registered version: writing, fetching and validation.

MLflow imports the loader module that a model directory names and runs its `code/`. A directory is
therefore validated before it is loaded: it may contain only files that eyevsai writes.
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
SERVED = "onnx"  # format of the export that is added to a version and then used to serve it
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
    """Write the learner as an MLflow pyfunc model into `folder/package`; return that folder.

    Args:
        learner: the trained model.
        example: split whose first image becomes the input example.
        folder: parent of the result; the learner's files are first written into `folder/model`.
        metadata: entries of the section `metadata` of the file MLmodel.
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
    """Return the validated model directory of `models:/...` or `runs:/...` on this machine.

    Files of a remote store are downloaded into the cache, with `fresh` even if the cache has them.

    Raises:
        UserError: the files cannot be fetched, the version was imported without a model, or the
            directory contains something that eyevsai does not write.
    """
    from eyevsai.tracking.backfill import RECORD

    folder = fetch_artifacts(uri, fresh=fresh)
    if (folder / RECORD).is_file() and not (folder / "MLmodel").is_file():
        raise UserError(
            f"{uri} was imported: the store has its training record, but no model. The legacy "
            "model is a pickle, which eyevsai never opens. Train the model again."
        )
    check_model_dir(folder)
    return folder


def hash_model_dir(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model directory by its relative path.

    Files that are added after the registration are left out: MLflow's registration metadata, and
    the export, whose manifest contains its checksums.

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
    """Compare the files of a model directory with an earlier result of `hash_model_dir`.

    Raises:
        UserError: a file was changed, is missing or was added.
    """
    hashes = hash_model_dir(folder)
    for name in sorted(hashes.keys() | expected.keys()):
        if hashes.get(name) != expected.get(name):
            difference = (
                "is missing"
                if name not in hashes
                else "was added"
                if name not in expected
                else "was changed"
            )
            raise UserError(
                f"{folder / name} {difference} since the version was registered (SHA-256). "
                "Restore it from a backup, or train the model again."
            )


def _is_added_later(name: str) -> bool:
    return name == "registered_model_meta" or name.startswith(f"{EXPORT_FOLDER}/")


def check_model_dir(folder: Path) -> None:
    """Validate a model directory before it is loaded.

    Raises:
        UserError: it has no MLmodel, contains a link or a file that eyevsai does not write, or its
            MLmodel names another loader, `code/` or another data folder.
    """
    if not (folder / "MLmodel").is_file():
        raise UserError(
            f"{folder} is not a model folder: it contains no MLmodel. Use the folder of a model "
            "or of an export, models:/NAME/VERSION or models:/NAME@ALIAS."
        )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (not path.is_dir() and name not in ALLOWED):
            raise UserError(
                f"{folder} is refused: {name} is not part of an eyevsai model. None of its code "
                "was executed."
            )
    flavors = _read_entry(folder, "flavors")
    pyfunc = flavors.get("python_function")
    loader = pyfunc.get("loader_module") if isinstance(pyfunc, dict) else None
    if set(flavors) != {"python_function"} or loader != LOADER:
        raise UserError(
            f"{folder} is refused: its loader is {loader or sorted(flavors)}, not that of eyevsai."
        )
    if (
        flavors["python_function"].get("code")
        or flavors["python_function"].get("data") != MODEL_FOLDER
    ):
        raise UserError(f"{folder} is refused: its MLmodel names other code or data to load.")


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the `metadata` that `write_model_dir` wrote.

    Raises:
        UserError: MLmodel cannot be read, or has no metadata.
    """
    return _read_entry(folder, "metadata")


def _read_entry(folder: Path, name: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        return dict(content[name])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder} is not a model folder: its MLmodel cannot be read ({error})."
        ) from error


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Map

    # no declared type covers bytes, base64, paths and arrays; cells are validated when read
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

    # no package index has local versions such as 2.13.0+cpu
    public = {name: metadata.version(name).partition("+")[0] for name in REQUIREMENTS}
    return [f"eyevsai=={VERSION}", *(f"{name}=={version}" for name, version in public.items())]

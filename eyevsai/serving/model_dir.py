"""Model directory of a registered version: writing, fetching and validation.

MLflow imports the loader module that a model directory names and runs its `code/`. A directory is
therefore validated before it is loaded: it may contain only files that eyevsai writes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError, read_error
from eyevsai.core.extras import PROJECT
from eyevsai.core.hashing import hash_file
from eyevsai.core.version import VERSION
from eyevsai.data.dataset import Split
from eyevsai.evaluation.reference import ARRAYS, CARD, Reference, write_reference
from eyevsai.formats.export import EXAMPLE
from eyevsai.formats.manifest import MANIFEST
from eyevsai.formats.onnx import MODEL
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import CONFIG, WEIGHTS, read_config, save
from eyevsai.serving.fetching import fetch_artifacts
from eyevsai.serving.wheel import FOLDER, pack_wheel, read_project, required_packages

LOADER = "eyevsai.serving.pyfunc"
MODEL_FOLDER = "data/model"
SERVED = "onnx"  # format of the export that is added to a version and then used to serve it
EXPORT_FOLDER = f"{MODEL_FOLDER}/{SERVED}"
REFERENCE_FOLDER = f"{MODEL_FOLDER}/reference"  # what a drift monitor compares with
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
        *(f"{REFERENCE_FOLDER}/{name}" for name in (CARD, ARRAYS)),
    }
)
WHEEL_SHA256 = "wheel_sha256"  # key of MLmodel's metadata: checksums of the folder `wheels`
WHEEL_FILE = re.compile(
    rf"{FOLDER}/{PROJECT}-[0-9a-z.]+\+c[0-9a-f]{{12}}(-py3-none-any\.whl|\.txt)"
)
REQUIREMENTS = ("mlflow", "torch", "torchvision", "numpy", "pillow", "safetensors")


def write_model_dir(
    learner: Learner,
    example: Split,
    folder: Path,
    metadata: dict[str, Any],
    wheel: Mapping[str, bytes] | None = None,
    *,
    reference: Reference | None = None,
) -> Path:
    """Write the learner as an MLflow pyfunc model into `folder/package`; return that folder.

    Args:
        learner: the trained model.
        example: split whose first image becomes the input example.
        folder: parent of the result; the learner's files are first written into `folder/model`.
        metadata: entries of the section `metadata` of the file MLmodel.
        wheel: result of `pack_wheel`; None packs the wheel of the present code.
        reference: drift reference of the learner, which gets the checksum of its weights; None for
            none.
    """
    import mlflow.pyfunc
    import pandas as pd

    wheel = pack_wheel() if wheel is None else wheel
    checksums = {name: hashlib.sha256(wheel[name]).hexdigest() for name in wheel}
    save(learner, folder / "model")
    if reference is not None:
        weights = str(read_config(folder / "model")["sha256"])
        write_reference(
            replace(reference, weights=weights), folder / "model" / Path(REFERENCE_FOLDER).name
        )
    image = next(example.images([0])).numpy()
    mlflow.pyfunc.save_model(
        path=folder / "package",
        loader_module=LOADER,
        data_path=str(folder / "model"),
        signature=_signature(),
        input_example=pd.DataFrame({"image": [_encode(image)]}),
        pip_requirements=_requirements(wheel),
        metadata=metadata | ({WHEEL_SHA256: checksums} if wheel else {}),
    )
    for name, content in wheel.items():
        path = folder / "package" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder / "package"


def model_size(model_dir: Path) -> int:
    """Return the size of a version's files in bytes, without the wheel of eyevsai."""
    from eyevsai.registry.artifacts import size_of

    wheels = model_dir / FOLDER
    return size_of(model_dir) - (size_of(wheels) if wheels.is_dir() else 0)


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

    Files that are added or replaced after the registration are left out: MLflow's registration
    metadata; the export, whose manifest contains its checksums; and the drift reference, whose card
    contains that of its arrays. The version has the checksum of the card as a tag.

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
    folders = (f"{EXPORT_FOLDER}/", f"{REFERENCE_FOLDER}/")
    return name == "registered_model_meta" or name.startswith(folders)


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
    wheel = _read_wheel_checksums(folder)
    allowed = ALLOWED | wheel.keys()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (not path.is_dir() and name not in allowed):
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
    for name, expected in wheel.items():
        if not (folder / name).is_file() or hash_file(folder / name) != expected:
            raise UserError(
                f"{folder} is refused: {name} is missing or was changed since the version was "
                "registered (SHA-256). Restore it from a backup, or train the model again."
            )


def _read_wheel_checksums(folder: Path) -> dict[str, str]:
    """Return the checksums of the files in `wheels/`; empty if the version has no wheel."""
    metadata = _read_mlmodel(folder).get("metadata")
    checksums = metadata.get(WHEEL_SHA256, {}) if isinstance(metadata, dict) else {}
    if not isinstance(checksums, dict) or not all(
        isinstance(name, str) and WHEEL_FILE.fullmatch(name) for name in checksums
    ):
        raise UserError(f"{folder} is refused: its MLmodel names a wheel that is not eyevsai's.")
    return checksums


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the `metadata` that `write_model_dir` wrote.

    Raises:
        UserError: MLmodel cannot be read, or has no metadata.
    """
    return _read_entry(folder, "metadata")


def _read_entry(folder: Path, name: str) -> dict[str, Any]:
    entry = _read_mlmodel(folder).get(name)
    if not isinstance(entry, dict):
        raise UserError(f"{folder} is not a model folder: its MLmodel has no section {name}.")
    return entry


def _read_mlmodel(folder: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        return dict(content)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
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


def _requirements(wheel: Mapping[str, bytes]) -> list[str]:
    """Return the requirements of a version: eyevsai, and what it needs at the present versions.

    eyevsai is named by a requirements file in `wheels/`, for pip, uv and conda alike. MLflow, which
    compares requirements with what is installed, does not read an option that is written with `=`:
    otherwise, it would warn in each checkout, whose eyevsai has no local version.
    """
    from importlib import metadata

    files = [f"--requirement={name}" for name in wheel if name.endswith(".txt")]
    project = read_project()
    pins = dict[str, str]()
    for name in [*REQUIREMENTS, *(required_packages(project) if project else [])]:
        try:
            # no package index has local versions such as 2.13.0+cpu
            pins[name] = f"{name}=={metadata.version(name).partition('+')[0]}"
        except metadata.PackageNotFoundError:  # not needed by what this environment is used for
            continue
    return [*(files or [f"{PROJECT}=={VERSION}"]), *pins.values()]

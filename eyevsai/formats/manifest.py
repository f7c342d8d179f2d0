"""`manifest.json`: metadata of an export, its parity results, and the SHA-256 of each file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.core.version import VERSION
from eyevsai.formats.base import ExportSource
from eyevsai.formats.factory import FORMATS, get_format
from eyevsai.formats.manifest_schema import EXPORT_AGAIN, validate_manifest
from eyevsai.formats.parity import ParityResult

MANIFEST = "manifest.json"
RUNTIMES = ("torch", "onnx", "onnxruntime", "openvino", "tensorflow-cpu", "tensorflow")


def write_manifest(
    folder: Path, name: str, source: ExportSource, parity: ParityResult, model_uri: str
) -> dict[str, Any]:
    """Write `manifest.json` into the folder of an export, and return its content.

    Args:
        folder: folder with all other files of the export.
        name: name of the format.
        source: the exported model.
        parity: result of the parity check.
        model_uri: URI of the exported model.
    """
    learner = source.learner
    manifest = {
        "format": name,
        "model_uri": model_uri,
        "weights_sha256": source.weights_sha256,
        "family": learner.family,
        "variation": learner.variation,
        "classes": list(learner.classes),
        "preprocessing": learner.preprocessing.to_json(),
        "settings": dict(vars(learner.settings)),
        "threshold": source.threshold,
        "parity": parity.metrics,
        "versions": {"eyevsai": VERSION, **_installed_versions()},
        **get_format(name).requirements(folder),
        "files": {
            path.relative_to(folder).as_posix(): hash_file(path) for path in _list_files(folder)
        },
    }
    (folder / MANIFEST).write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export, after its files were compared with it.

    Raises:
        UserError: the manifest is missing or invalid, its format is unknown, or a file is missing,
            was added or changed, or is a link.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder} contains no valid export: {MANIFEST} cannot be read ({error})."
        ) from error
    validate_manifest(manifest, str(folder / MANIFEST))
    if manifest["format"] not in FORMATS:
        raise UserError(
            f"{folder} contains an export of the unknown format {manifest['format']!r}. "
            f"Known: {', '.join(FORMATS)}."
        )
    files: Mapping[str, str] = manifest["files"]
    paths = {path.relative_to(folder).as_posix(): path for path in _list_files(folder)}
    if differing := sorted(paths.keys() ^ files.keys()):
        problem = "is not part of the export" if differing[0] in paths else "is missing"
        raise UserError(
            f"{folder} is refused: {differing[0]} {problem}. None of its files was opened. "
            f"{EXPORT_AGAIN}"
        )
    for name, path in paths.items():
        if path.is_symlink() or hash_file(path) != files[name]:
            raise UserError(f"{path} is not the exported file: its SHA-256 differs. {EXPORT_AGAIN}")
    return manifest


def check_manifest(folder: Path, manifest: Mapping[str, Any], embedded: Mapping[str, Any]) -> None:
    """Compare the manifest with the fields that the exported files contain, too.

    Args:
        folder: folder of the export, for the message.
        manifest: content of `manifest.json`.
        embedded: fields from the exported files, as `Format.describe` returns them.

    Raises:
        UserError: a field differs.
    """
    for name, value in embedded.items():
        if manifest[name] != json.loads(json.dumps(value)):  # converts tuples to lists
            raise UserError(
                f"{folder / MANIFEST} has {name} {manifest[name]!r:.80}, but the exported file "
                f"has {value!r:.80}: one of the two was changed. {EXPORT_AGAIN}"
            )


def _list_files(folder: Path) -> list[Path]:
    """Return all files except the manifest, and Python's cache from a run of the example."""
    paths = [
        path for path in sorted(folder.rglob("*")) if not path.is_dir() and path.name != MANIFEST
    ]
    return [path for path in paths if path.parent.name != "__pycache__"]


def _installed_versions() -> dict[str, str]:
    versions = {}
    for name in RUNTIMES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

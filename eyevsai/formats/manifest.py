"""`manifest.json`: what an export is, where it comes from, how well it agrees, and the SHA-256 of
each of its files.
"""

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
from eyevsai.formats.factory import FORMATS
from eyevsai.formats.manifest_schema import AGAIN, validate_manifest
from eyevsai.formats.parity import ParityResult

MANIFEST = "manifest.json"
RUNTIMES = ("torch", "onnx", "onnxruntime", "openvino", "tensorflow-cpu")


def write_manifest(
    folder: Path, name: str, source: ExportSource, parity: ParityResult, model_uri: str
) -> dict[str, Any]:
    """Writes the manifest of the export of format `name` that lies in `folder`, and returns it."""
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
        "versions": {"eyevsai": VERSION, **_installed()},
        "files": {path.relative_to(folder).as_posix(): hash_file(path) for path in _files(folder)},
    }
    (folder / MANIFEST).write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export whose files are those that were written, no more and no fewer.

    Raises:
        UserError: naming the file that is not, or what the manifest does not say.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder} holds no export: {MANIFEST} cannot be read ({error})."
        ) from error
    validate_manifest(manifest, str(folder / MANIFEST))
    if manifest["format"] not in FORMATS:
        raise UserError(
            f"{folder} holds no export that this eyevsai knows: its format is "
            f"{manifest['format']!r}."
        )
    files: Mapping[str, str] = manifest["files"]
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if strange := sorted(there.keys() ^ files.keys()):
        what = "is not part of the export" if strange[0] in there else "is missing"
        raise UserError(f"{folder} is refused: {strange[0]} {what}. Nothing in it was opened.")
    for name, path in there.items():
        if path.is_symlink() or hash_file(path) != files[name]:
            raise UserError(
                f"{path} is not the file that was exported: its SHA-256 differs. Export it again."
            )
    return manifest


def check_manifest(folder: Path, manifest: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises UserError when the manifest says something else than what the exported file itself is
    `known` to say.
    """
    for name, value in known.items():
        if manifest[name] != json.loads(json.dumps(value)):  # in which a tuple is a list
            raise UserError(
                f"{folder / MANIFEST} says {name} {manifest[name]!r:.80}, but the exported file "
                f"itself says {value!r:.80}: one of the two was changed. {AGAIN}"
            )


def _files(folder: Path) -> list[Path]:
    """All files but the manifest, and but what Python leaves behind where an example was run."""
    there = [
        path for path in sorted(folder.rglob("*")) if not path.is_dir() and path.name != MANIFEST
    ]
    return [path for path in there if path.parent.name != "__pycache__"]


def _installed() -> dict[str, str]:
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

"""Export of a model in one format: writing, parity check, example and manifest."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from eyevsai.formats.base import ExportSource, Format
from eyevsai.formats.factory import get_format
from eyevsai.formats.manifest import write_manifest
from eyevsai.formats.parity import (
    AccuracyParityCheck,
    ExactParityCheck,
    ParityCheck,
    ParityResult,
    ReferenceData,
)
from eyevsai.models.factory import resolve_model

EXAMPLE = "example.py"
# the import in an example that is removed, and the line that the imported code is inserted before
IMPORT, BEGIN = ("from decode import decode\n", "folder = ")


def export(
    name: str, source: ExportSource, reference: ReferenceData, folder: Path, model_uri: str
) -> ParityResult:
    """Write an export and return the result of its parity check.

    The caller must call `Format.check` before, and discard an export whose result has failures.

    Args:
        name: name of the format.
        source: the model to export.
        reference: test images, and the model's predictions for them.
        folder: folder of the export, which is created.
        model_uri: URI of the model for the manifest.
    """
    format_ = get_format(name)
    folder.mkdir(parents=True)
    format_.write(source, folder)
    parity = make_parity_check(format_, source).check(format_.open_written(folder), reference)
    (folder / EXAMPLE).write_text(_compose_example(format_.example or name), encoding="utf-8")
    write_manifest(folder, name, source, parity, model_uri)
    return parity


def _compose_example(name: str) -> str:
    """Return the example script of a format, with the code for image decoding inserted."""
    folder = resources.files("eyevsai.formats") / "examples"
    example, decode = (
        (folder / f"{each}.py").read_text(encoding="utf-8") for each in (name, "decode")
    )
    _, _, body = decode.partition('"""\n\n')
    return example.replace(IMPORT, "").replace(BEGIN, f"{body}\n\n{BEGIN}", 1)


def make_parity_check(format_: Format, source: ExportSource) -> ParityCheck:
    """Return the parity check for exports of the source in a format."""
    if format_.max_accuracy_loss is not None:
        return AccuracyParityCheck(format_.max_accuracy_loss, format_.min_agreement)
    learner = source.learner
    return ExactParityCheck(
        format_.tolerance,
        piecewise_constant=resolve_model(
            learner.family, learner.variation
        ).declaration.piecewise_constant,
    )

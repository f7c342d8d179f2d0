"""One export from beginning to end: written, opened again, held against its model, and
described.
"""

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
# in an example, in place of the code itself
IMPORT, BEGIN = ("from decode import decode\n", "here = ")


def export(
    name: str, source: ExportSource, reference: ReferenceData, folder: Path, model_uri: str
) -> ParityResult:
    """Write an export into `folder`, which is created, and return its parity with the model.

    An export whose result has failures must not be kept. Call `Format.check` before.
    """
    form = get_format(name)
    folder.mkdir(parents=True)
    form.write(source, folder)
    parity = make_parity_check(form, source).check(form.open_written(folder), reference)
    (folder / EXAMPLE).write_text(_compose_example(form.example or name), encoding="utf-8")
    write_manifest(folder, name, source, parity, model_uri)
    return parity


def _compose_example(name: str) -> str:
    """The example of a format in one file: with how images are decoded, which is the same for
    all.
    """
    folder = resources.files("eyevsai.formats") / "examples"
    example, decode = (
        (folder / f"{each}.py").read_text(encoding="utf-8") for each in (name, "decode")
    )
    _, _, body = decode.partition('"""\n\n')
    return example.replace(IMPORT, "").replace(BEGIN, f"{body}\n\n{BEGIN}", 1)


def make_parity_check(format_: Format, source: ExportSource) -> ParityCheck:
    """What an export of this format has to pass."""
    if format_.points is not None:
        return AccuracyParityCheck(format_.points, format_.agreement)
    learner = source.learner
    return ExactParityCheck(
        format_.tolerance,
        piecewise_constant=resolve_model(
            learner.family, learner.variation
        ).declaration.piecewise_constant,
    )

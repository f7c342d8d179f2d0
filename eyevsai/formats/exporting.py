"""One export from beginning to end: written, opened again, held against its model, and
described.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from eyevsai.formats.format import Format, Source
from eyevsai.formats.formats import format_of
from eyevsai.formats.manifest import write_manifest
from eyevsai.formats.parity import AccuracyGate, Corpus, Gate, ParityGate, Verdict
from eyevsai.models.factory import get_variation

EXAMPLE = "example.py"
# in an example, in place of the code itself
IMPORT, BEGIN = ("from decode import decode\n", "here = ")


def export(name: str, source: Source, corpus: Corpus, folder: Path, model_uri: str) -> Verdict:
    """Writes an export into `folder`, which is made; with failures in the verdict it is one to
    throw away.

    `Format.check` has been asked before.
    """
    form = format_of(name)
    folder.mkdir(parents=True)
    form.write(source, folder)
    verdict = gate_of(form, source).judge(form.open_written(folder), corpus)
    (folder / EXAMPLE).write_text(_compose_example(form.example or name), encoding="utf-8")
    write_manifest(folder, name, source, verdict, model_uri)
    return verdict


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


def gate_of(form: Format, source: Source) -> Gate:
    """What an export of this format has to pass."""
    if form.points is not None:
        return AccuracyGate(form.points, form.agreement)
    learner = source.learner
    return ParityGate(
        form.tolerance, steps=get_variation(learner.family, learner.variation)[1].piecewise_constant
    )

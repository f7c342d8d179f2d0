"""Files with the answers that a person should label: a CSV table, and tasks for Label Studio."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from eyevsai.inference_log.files import AT, ID, LABEL, TASK_ID, write_table, write_text
from eyevsai.inference_log.suggestions import Suggestion

_MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif",
         b"RIFF": "image/webp", b"BM": "image/bmp"}  # fmt: skip


def write_suggestions(path: Path, suggestions: Sequence[Suggestion]) -> None:
    """Write a CSV table with an empty column for the label, which `feedback add` reads.

    Raises:
        UserError: the file cannot be written.
    """
    header = (ID, LABEL, "predicted", "probability", "version", "answered_" + AT, "sha256", "image")
    rows = [
        (
            each.id,
            "",
            each.predicted,
            f"{each.probability:.4f}",
            each.version,
            datetime.fromtimestamp(each.at, UTC).isoformat(timespec="seconds"),
            "" if each.sha256 is None else each.sha256.hex(),
            "" if each.image is None else str(each.image),
        )
        for each in suggestions
    ]
    write_table(path, header, rows)


def write_tasks(path: Path, suggestions: Sequence[Suggestion], classes: Sequence[str]) -> None:
    """Write tasks for Label Studio, which contain the images, and the labelling configuration.

    The configuration is written beside the tasks, with the suffix `.xml`.

    Raises:
        UserError: a file cannot be written.
    """
    tasks = [
        {"data": {TASK_ID: each.id, "image": _embed(each.image)}}
        for each in suggestions
        if each.image is not None
    ]
    write_text(path, json.dumps(tasks))
    write_text(path.with_suffix(".xml"), make_config(classes))


def make_config(classes: Sequence[str]) -> str:
    """Return the labelling configuration of Label Studio for the classes."""
    from xml.sax.saxutils import quoteattr

    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="{LABEL}" toName="image" choice="single" showInLine="true">\n'
        f"{choices}\n  </Choices>\n</View>\n"
    )


def _embed(image: Path) -> str:
    """Return an image as a data URL."""
    data = image.read_bytes()
    mime = next((name for magic, name in _MIME.items() if data.startswith(magic)), "image/*")
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"

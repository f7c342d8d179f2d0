"""Files with the answers that a person should label: a CSV table, and tasks for Label Studio."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import UserError, write_error
from eyevsai.inference_log.database import Database
from eyevsai.inference_log.files import AT, ID, LABEL, TASK_ID, write_table, write_text
from eyevsai.inference_log.images import ImageFolder
from eyevsai.inference_log.suggestions import (
    Selection,
    Suggestion,
    record_selection,
    withdraw_selection,
)

_MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif",
         b"RIFF": "image/webp", b"BM": "image/bmp"}  # fmt: skip


@dataclass(frozen=True)
class Unfinished:
    """File with a selection whose answers are not written yet; one process at once uses it.

    An answer that is recorded as selected is never selected again. The selection is stored here
    before it is recorded, so that it is withdrawn if nobody gets its answers.

    Attributes:
        path: path of the file.
        option: command-line option that chose its folder, for error messages.
    """

    path: Path
    option: str

    def withdraw(self, database: Database) -> None:
        """Withdraw the selection of a process that was killed before it had written the answers.

        Raises:
            LogUnavailableError: the database is unreachable.
            UserError: the file cannot be read or deleted.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if not (self.path.parent / content["target"]).exists():
                withdraw_selection(database, Selection(content["at"], content["reasons"]))
            self.path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._error(error) from error

    @contextmanager
    def recorded(
        self,
        database: Database,
        selection: Selection,
        target: Path,
        folder: ImageFolder | None = None,
    ) -> Iterator[list[Suggestion]]:
        """Record a selection, and yield its answers in random order for the block to write them.

        If the block raises an error before `target` exists, the selection is withdrawn.

        Args:
            database: the log.
            selection: result of `select_answers`.
            target: file that exists once all answers are written.
            folder: folder of the stored images.

        Raises:
            LogUnavailableError: the database is unreachable.
            UserError: the file cannot be written.
        """
        parent = self.path.parent
        # relative where possible: another machine can have the folder under another path
        name = target.relative_to(parent) if target.is_relative_to(parent) else target.absolute()
        try:
            parent.mkdir(parents=True, exist_ok=True)
            content = {"target": str(name), **vars(selection)}
            write_atomically(self.path, json.dumps(content), durable=True)
        except OSError as error:
            raise self._error(error) from error
        try:
            yield record_selection(database, selection, folder)
        finally:
            self.withdraw(database)

    def _error(self, error: OSError) -> UserError:
        return write_error(self.path, error, f"Choose another {self.option}.")


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

    The configuration is written beside the tasks, with the suffix `.xml`, and before them: when the
    tasks exist, both are complete.

    Raises:
        UserError: a file cannot be written.
    """
    tasks = [
        {"data": {TASK_ID: each.id, "image": image}}
        for each in suggestions
        if (image := _embed(each.image)) is not None
    ]
    write_text(path.with_suffix(".xml"), make_config(classes))
    write_text(path, json.dumps(tasks))


def make_config(classes: Sequence[str]) -> str:
    """Return the labelling configuration of Label Studio for the classes."""
    from xml.sax.saxutils import quoteattr

    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="{LABEL}" toName="image" choice="single" showInLine="true">\n'
        f"{choices}\n  </Choices>\n</View>\n"
    )


def _embed(image: Path | None) -> str | None:
    """Return an image as a data URL; None if it is not stored, or was deleted meanwhile."""
    if image is None:
        return None
    try:
        data = image.read_bytes()
    except FileNotFoundError:
        return None
    mime = next((name for magic, name in _MIME.items() if data.startswith(magic)), "image/*")
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"

"""Workflow of `feedback add`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from eyevsai.core.paths import expand
from eyevsai.inference_log.feedback import make_check
from eyevsai.inference_log.files import Row, check_source, read_labels
from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.label_store import RESULTS, LabelResults
from eyevsai.inference_log.records import Label
from eyevsai.inference_log.secret import load_secret
from eyevsai.inference_log.settings import FeedbackSettings
from eyevsai.inference_log.store import open_log

_BATCH = 10_000  # labels of a transaction, between which a server can write
_LISTED = 20  # refused rows in the result


@dataclass
class AddedLabels:
    """Counts of a file's labels by result; `reasons` lists the first refused ones."""

    results: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    refused: int = 0
    reasons: list[str] = field(default_factory=list)

    def refuse(self, where: str, reason: str) -> None:
        """Count a refused row."""
        self.refused += 1
        if len(self.reasons) < _LISTED:
            self.reasons.append(f"{where}: {reason}")

    def update(self, results: LabelResults) -> None:
        """Add the counts of stored labels."""
        for name in RESULTS:
            self.results[name] += results.total(name)


def add_labels(name: str, path: Path, settings: FeedbackSettings) -> AddedLabels:
    """Store the labels of a CSV table or an export of Label Studio.

    The file can be added again: labels that are stored change nothing. Labels of unknown ids or
    classes are refused, and counted.

    Args:
        name: name of the model.
        path: the file.
        settings: the log, and the source of rows without one.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the log has no answers of the model, or the file cannot be read.
    """
    check_source(settings.source)
    store = open_log(settings)
    store.check_model(name)
    identities = Identities(load_secret(settings.log_secret_file, store.path))
    check = make_check(identities, store.classes(name))
    added = AddedLabels()

    def checked(rows: Iterator[Row]) -> Iterator[Label]:
        for row in rows:
            problem = row.label if isinstance(row.label, str) else check(row.label)
            if problem is not None:
                added.refuse(row.where, problem)
            elif isinstance(row.label, Label):
                yield row.label

    labels = checked(read_labels(expand(path), settings.source))
    while batch := list(islice(labels, _BATCH)):
        added.update(store.add_labels(batch))
    store.close()
    return added

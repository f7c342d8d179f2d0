"""Labelling requests: answers that a person is asked to label, as files for labelling tools."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.core.atomic_dir import atomic_output_dir
from eyevsai.core.errors import write_error
from eyevsai.inference_log.images import find_folder
from eyevsai.inference_log.settings import SuggestSettings
from eyevsai.inference_log.store import LogStore
from eyevsai.inference_log.suggestion_files import Unfinished, write_suggestions, write_tasks
from eyevsai.inference_log.suggestions import Selection, select_answers, summarize
from eyevsai.workflows.watch.settings import WatchSettings

log = logging.getLogger("eyevsai")

TABLE, TASKS, COUNTS = "labels.csv", "label_studio.json", "counts.json"
INTENT = "request.json"  # selection of a request whose folder is not written yet


@dataclass(frozen=True)
class LabelRequest:
    """Number of answers to label by reason, and the folder with their files."""

    folder: Path
    counts: dict[str, int]

    @property
    def count(self) -> int:
        """Number of answers to label."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        return {"folder": str(self.folder), "counts": self.counts}


def request_labels(
    store: LogStore, model: str, count: int, folder: Path, settings: WatchSettings
) -> LabelRequest:
    """Select answers, half of them at random, and write them as CSV and for Label Studio.

    Answers with a stored image come first: only they can be trained on. A request that an earlier
    call has written is returned again. The selection of one that was killed before that is
    withdrawn: an answer that is recorded as selected is never selected again.

    Args:
        store: inference log.
        model: name of the registered model.
        count: number of answers.
        folder: folder of the request.
        settings: settings of the call, with the folder of stored images.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the folder cannot be written.
    """
    unfinished = Unfinished(folder.with_name(INTENT), "--retraining-dir")
    unfinished.withdraw(store)
    try:
        if (folder / COUNTS).is_file():
            return LabelRequest(folder, json.loads((folder / COUNTS).read_text(encoding="utf-8")))
        images = find_folder(store, settings.images_dir)
        selection = _select(store, model, count, with_image=images is not None)
        with unfinished.recorded(store, selection, folder / COUNTS, images) as selected:
            counts = summarize(selected)
            with atomic_output_dir(folder, "--retraining-dir") as temporary:
                write_suggestions(temporary / TABLE, selected)
                write_tasks(temporary / TASKS, selected, store.classes(model))
                (temporary / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
                temporary.replace(folder)
    except OSError as error:
        raise write_error(folder, error, "Choose another --retraining-dir.") from error
    return LabelRequest(folder, counts)


def _select(store: LogStore, model: str, count: int, *, with_image: bool) -> Selection:
    """Select answers with a stored image; if there are none, any answers."""
    share = SuggestSettings().random_share
    selection = select_answers(store, model, count, random_share=share, with_image=with_image)
    if selection.reasons:
        return selection
    log.warning(
        "No image of %s is stored: labels show its error rate, but nothing can be trained on. "
        "Serve it with --keep-images 0.05.",
        model,
    )
    return select_answers(store, model, count, random_share=share)

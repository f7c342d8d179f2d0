"""Workflows of `feedback suggest`, `feedback status` and `feedback exclude`."""

from __future__ import annotations

import time
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand
from eyevsai.inference_log.files import check_source
from eyevsai.inference_log.images import find_folder
from eyevsai.inference_log.label_summary import LabelSummary
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.retention import DAY_S
from eyevsai.inference_log.settings import LogSettings, SuggestSettings
from eyevsai.inference_log.store import open_log
from eyevsai.inference_log.suggestion_files import write_suggestions, write_tasks
from eyevsai.inference_log.suggestions import suggest, summarize, withdraw


def suggest_labels(name: str, settings: SuggestSettings) -> tuple[Path, dict[str, int]]:
    """Select answers to be labelled, record them, and write them to a file.

    Args:
        name: name of the model.
        settings: the log, the selection and the file.

    Returns:
        The file, and the number of answers by reason.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the log has no answers of the model or none that can be selected, or the file
            cannot be written.
    """
    suffix = ".json" if settings.label_studio else ".csv"
    path = expand(settings.file or f"{name}-to-label{suffix}")
    if path.exists():
        raise UserError(
            f"{path} exists, and could contain labels. Move it, or choose another --file."
        )
    store = open_log(settings)
    store.check_model(name)
    suggestions = suggest(
        store,
        name,
        settings.count,
        random_share=settings.random_share,
        since=None if settings.days is None else time.time() - settings.days * DAY_S,
        folder=find_folder(store, settings.images_dir),
        with_image=settings.label_studio,
    )
    if not suggestions:
        kind = (
            "with a stored image, without a label" if settings.label_studio else "without a label"
        )
        hint = (
            "Serve with --keep-images, or omit --label-studio"
            if settings.label_studio
            else "Wait for answers"
        )
        raise UserError(f"{name} has no answers {kind} that were not suggested before. {hint}.")
    try:
        if settings.label_studio:
            write_tasks(path, suggestions, store.classes(name))
        else:
            write_suggestions(path, suggestions)
    except BaseException:
        withdraw(store, suggestions)
        raise
    store.close()
    return path, summarize(suggestions)


def read_label_summary(name: str, settings: LogSettings) -> LabelSummary:
    """Return counts of labels, and the share and disagreement of each source.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the log has no answers of the model.
    """
    store = open_log(settings)
    store.check_model(name)
    summary = LabelReader(store).summary(name)
    store.close()
    return summary


def exclude_source(source: str, settings: LogSettings, *, is_included: bool = False) -> bool:
    """Exclude a source of labels, or include it again; return False if that changes nothing.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: it is no source.
    """
    check_source(source)
    store = open_log(settings)
    is_changed = store.include_source(source) if is_included else store.exclude_source(source)
    store.close()
    return is_changed

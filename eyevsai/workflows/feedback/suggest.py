"""Workflows of `feedback suggest`, `feedback status` and `feedback exclude`."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.locks import waiting_for
from eyevsai.core.paths import expand
from eyevsai.inference_log.files import check_source
from eyevsai.inference_log.images import find_folder
from eyevsai.inference_log.label_summary import LabelSummary
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.retention import DAY_S
from eyevsai.inference_log.settings import LogSettings, SuggestSettings
from eyevsai.inference_log.store import LogStore, open_log
from eyevsai.inference_log.suggestion_files import Unfinished, write_suggestions, write_tasks
from eyevsai.inference_log.suggestions import select_answers, summarize

log = logging.getLogger("eyevsai")

UNFINISHED = "suggestions"  # folder of selections whose files are not written yet
WAIT_S = 5.0


def suggest_labels(name: str, settings: SuggestSettings) -> tuple[Path, dict[str, int]]:
    """Select answers to be labelled, record them, and write them to a file.

    The selection of an earlier call of this machine that was killed before its file was written is
    withdrawn.

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
    with _unfinished(name, store, settings) as unfinished:
        unfinished.withdraw(store)
        selection = select_answers(
            store,
            name,
            settings.count,
            random_share=settings.random_share,
            since=None if settings.days is None else time.time() - settings.days * DAY_S,
            with_image=settings.label_studio,
        )
        images = find_folder(store, settings.images_dir)
        with unfinished.recorded(store, selection, path, images) as suggestions:
            if not suggestions:
                raise _no_answers(name, settings)
            if settings.label_studio:
                write_tasks(path, suggestions, store.classes(name))
            else:
                write_suggestions(path, suggestions)
    store.close()
    return path, summarize(suggestions)


@contextmanager
def _unfinished(name: str, store: LogStore, settings: SuggestSettings) -> Iterator[Unfinished]:
    """Yield the file of a model's selection; other calls of this machine wait meanwhile."""
    folder = expand(settings.state_dir).absolute() / UNFINISHED
    digest = hashlib.sha256(f"{store.title}\n{name}".encode()).hexdigest()[:16]

    def note(is_retry: bool) -> None:
        if is_retry:
            log.info("Another process selects answers of %s: waiting for it.", name)

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(waiting_for(folder / f"{digest}.lock", WAIT_S, note))
        except OSError as error:
            raise write_error(folder, error, "Choose another --state-dir.") from error
        yield Unfinished(folder / f"{digest}.json", "--state-dir")


def _no_answers(name: str, settings: SuggestSettings) -> UserError:
    """Return the error that no answer can be selected."""
    if settings.label_studio:
        kind = "with a stored image, without a label"
        hint = "Serve with --keep-images, or omit --label-studio"
    else:
        kind, hint = "without a label", "Wait for answers"
    return UserError(f"{name} has no answers {kind} that were not suggested before. {hint}.")


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

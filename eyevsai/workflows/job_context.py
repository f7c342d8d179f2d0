"""What every job that makes runs begins with: a store in order, and in each run what it learns
from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eyevsai.store.backend import open_store, raising_on_denial
from eyevsai.workflows.shutdown import ShutdownHandler

if TYPE_CHECKING:
    from eyevsai.data.dataset import Dataset
    from eyevsai.tracking.run import Run


def open_store_and_reap(state_root: Path) -> str:
    """The store's URI, after what ended runs of this machine left unsaid was said."""
    tracking_uri = open_store()
    from eyevsai.tracking.stale_runs import reap_stale_runs

    with raising_on_denial(tracking_uri):
        reap_stale_runs(tracking_uri, state_root)
    return tracking_uri


@contextmanager
def start_job(
    stop: ShutdownHandler,
    tracking_uri: str,
    title: str,
    tags: Mapping[str, str],
    state_root: Path,
    *,
    given: str | None,
    resumed: str | None = None,
    extends: bool = False,
) -> Iterator[Run]:
    """The run of a job, which ends as the block ends; see `start_run`.

    A signal that comes while the run is made waits until there is something to end.

    Raises:
        UserError: the version that the job is about is being deleted.
    """
    from eyevsai.registry.versions import PRUNED_FROM, check_not_reserved
    from eyevsai.tracking.run_lifecycle import start_run

    with ExitStack() as stack:
        with stop.shielded():
            run = stack.enter_context(
                start_run(
                    tracking_uri,
                    title,
                    tags,
                    state_root,
                    given_run_id=given,
                    resumed_run_id=resumed,
                    extends=extends,
                    stop=stop,
                )
            )
            stop.at_timeout = run.kill
        check_not_reserved(tracking_uri, tags.get("model_uri", tags.get(PRUNED_FROM, "")))
        stack.callback(setattr, stop, "at_timeout", lambda: None)  # a run that ended stays as it is
        yield run


def log_input(run: Run, dataset: Dataset) -> None:
    """Says in MLflow what a run learns from."""
    from eyevsai.tracking.run_metrics import PARTS

    counts = Counter(dataset.split_names)
    parts = dataset.curated.source.parts
    images = {name: counts[name] for name in ("train", "valid", "test")}
    profile = {"classes": len(dataset.classes), **images, PARTS: list(parts)}
    folders = [str(folder) for folder in parts.values()]
    run.log_input(dataset.name, dataset.fingerprint, folders, profile)

"""Context of every workflow: signals, the store, and the run that is logged to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from eyevsai.core.settings import Settings
from eyevsai.registry.versions import check_not_reserved
from eyevsai.store.backend import open_store, raising_on_denial
from eyevsai.store.schema import check_run_dirs
from eyevsai.store.tags import PRUNED_FROM
from eyevsai.tracking.run import Run
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.tracking.run_metrics import PARTS
from eyevsai.tracking.stale_runs import reap_stale_runs
from eyevsai.workflows.shutdown import ShutdownHandler, ending_with_mlflow_run, handling_signals

if TYPE_CHECKING:
    from eyevsai.data.dataset import Dataset


def open_store_and_reap(state_dir: Path) -> str:
    """Open the tracking store, flush pending writes of finished runs on this host, and return its
    URI.
    """
    tracking_uri = open_store()
    check_run_dirs(state_dir)
    with raising_on_denial(tracking_uri):
        reap_stale_runs(tracking_uri, state_dir)
    return tracking_uri


@dataclass
class JobContext:
    """What a workflow runs in: signals are handled, and the store and runs are opened on demand.

    `run_id` is the run that `mlflow run` created for this call, if it did.
    """

    stop: ShutdownHandler
    state_dir: Path
    run_id: str | None = None

    @cached_property
    def tracking_uri(self) -> str:
        """The URI of the store, which is opened and checked at the first access.

        Raises:
            UserError: the store cannot be used.
        """
        return open_store_and_reap(self.state_dir)

    @contextmanager
    def start_run(
        self,
        title: str,
        tags: Mapping[str, str],
        *,
        resumed: str | None = None,
        extends: bool = False,
        is_additional: bool = False,
    ) -> Iterator[Run]:
        """Start the run of the workflow, which ends as the block ends; see `run_lifecycle`.

        A signal that arrives while the run is created waits until there is something to end.

        Args:
            title: the name of the run.
            tags: of the run.
            resumed: the id of an earlier run to resume.
            extends: resume it although it has finished.
            is_additional: create a run besides the one that `mlflow run` created for this call.

        Raises:
            UserError: the version that the run is about is being deleted.
        """
        stop = self.stop
        with ExitStack() as stack:
            with stop.shielded():
                run = stack.enter_context(
                    start_run(
                        self.tracking_uri,
                        title,
                        tags,
                        self.state_dir,
                        given_run_id=None if is_additional else self.run_id,
                        resumed_run_id=resumed,
                        extends=extends,
                        stop=stop,
                    )
                )
                stop.at_timeout = run.kill
            check_not_reserved(self.tracking_uri, tags.get("model_uri", tags.get(PRUNED_FROM, "")))
            stack.callback(setattr, stop, "at_timeout", lambda: None)  # an ended run stays ended
            yield run


@contextmanager
def job_context(state_dir: str | Path, run_id: str | None = None) -> Iterator[JobContext]:
    """Handle signals inside the block, and end with the `mlflow run` that created `run_id`."""
    with handling_signals() as stop, ending_with_mlflow_run() if run_id else nullcontext():
        yield JobContext(stop, Path(state_dir).expanduser(), run_id)


def log_settings(run: Run, settings: Settings) -> None:
    """Log the settings of a command that have a value as parameters."""
    run.log_params({name: value for name, value in vars(settings).items() if value is not None})


def log_input(run: Run, dataset: Dataset) -> None:
    """Says in MLflow what a run learns from."""
    counts = Counter(dataset.split_names)
    parts = dataset.curated.source.parts
    images = {name: counts[name] for name in ("train", "valid", "test")}
    profile = {"classes": len(dataset.classes), **images, PARTS: list(parts)}
    folders = [str(folder) for folder in parts.values()]
    run.log_input(dataset.name, dataset.fingerprint, folders, profile)

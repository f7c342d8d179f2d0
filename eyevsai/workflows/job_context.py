"""Context of all workflows: signal handling, the tracking store and the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.paths import expand
from eyevsai.core.settings import Setting, Settings
from eyevsai.registry.lookup import check_not_reserved
from eyevsai.store.backend import open_store, raising_on_denial
from eyevsai.store.schema import check_run_dirs
from eyevsai.store.tags import PRUNED_FROM
from eyevsai.tracking.experiment import (
    check_experiment,
    check_given_experiment,
    is_experiment_selected,
)
from eyevsai.tracking.run import Run
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.tracking.run_metrics import PARTS
from eyevsai.tracking.stale_runs import reap_stale_runs
from eyevsai.workflows.shutdown import ShutdownHandler, ending_with_mlflow_run, handling_signals

if TYPE_CHECKING:
    from eyevsai.data.dataset import Dataset


def open_store_and_reap(state_dir: Path) -> str:
    """Open the tracking store, reap stale runs of this host, and return the store's URI.

    Reaping also flushes the pending writes of finished runs. `state_dir` is the folder of run
    state.

    Raises:
        UserError: the store is unusable or denies access, or it or the run directories must be
            upgraded first.
    """
    tracking_uri = open_store()
    check_run_dirs(state_dir)
    with raising_on_denial(tracking_uri):
        reap_stale_runs(tracking_uri, state_dir)
    return tracking_uri


@dataclass
class JobContext:
    """Context of a workflow, which opens the store and starts runs on demand.

    Args:
        stop: cancellation token of the job, requested by signals.
        state_dir: folder of run state on this machine.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.
        creates_runs: the workflow creates runs in the experiment of MLflow's environment variables
            or of its dataset.
    """

    stop: ShutdownHandler
    state_dir: Path
    run_id: str | None = None
    creates_runs: bool = True

    @cached_property
    def tracking_uri(self) -> str:
        """URI of the tracking store; the first access opens it and reaps stale runs.

        Raises:
            UserError: the store is unusable, the experiment that MLflow's environment variables
                select was deleted, or it is not that of the run of `mlflow run`.
        """
        tracking_uri = open_store_and_reap(self.state_dir)
        if self.creates_runs and self.run_id is not None:
            check_given_experiment(tracking_uri, self.run_id)
        elif self.creates_runs and is_experiment_selected():
            check_experiment(tracking_uri)
        return tracking_uri

    def check_experiment(self, dataset: str) -> None:
        """Raise UserError if the experiment of new runs of a dataset was deleted."""
        if self.creates_runs and self.run_id is None:
            check_experiment(self.tracking_uri, dataset)

    @contextmanager
    def start_run(
        self,
        title: str,
        tags: Mapping[str, str],
        *,
        resumed: str | None = None,
        extends: bool = False,
        is_additional: bool = False,
        changed: Collection[Setting] = (),
        **options: Any,
    ) -> Iterator[Run]:
        """Start the run of the workflow; its status follows from how the block ends.

        A signal that arrives while the run is being created takes effect afterwards, so that the
        run is ended.

        Args:
            title: name of the run.
            tags: tags of the run.
            resumed: id of an earlier run to resume; None to start a new run.
            extends: resume it even if it has finished.
            is_additional: create a new run even if `mlflow run` created one for this call.
            changed: parameters of MLproject that `--config` sets to other values than the defaults.
            options: further options of `tracking.run_lifecycle.start_run`.

        Raises:
            UserError: the version in the tags `model_uri` or `PRUNED_FROM` is being deleted.
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
                        changed=changed,
                        stop=stop,
                        **options,
                    )
                )
                stop.at_timeout = run.kill
            check_not_reserved(self.tracking_uri, tags.get("model_uri", tags.get(PRUNED_FROM, "")))
            # a timeout after the end of the run must not change the run's status
            stack.callback(setattr, stop, "at_timeout", lambda: None)
            yield run


@contextmanager
def job_context(
    state_dir: str | Path, run_id: str | None = None, *, creates_runs: bool = True
) -> Iterator[JobContext]:
    """Yield the context of a workflow, and handle signals inside the block.

    Args:
        state_dir: folder of run state; `~` is expanded.
        run_id: run that `mlflow run` created for this call; the process then ends when that
            `mlflow run` dies.
        creates_runs: False for a workflow that is recorded in the audit log only.
    """
    with handling_signals() as stop, ending_with_mlflow_run() if run_id else nullcontext():
        yield JobContext(stop, expand(state_dir), run_id, creates_runs)


def log_settings(run: Run, settings: Settings) -> None:
    """Log the settings of a command as parameters, except those that are None."""
    run.log_params({name: value for name, value in vars(settings).items() if value is not None})


def log_input(run: Run, dataset: Dataset) -> None:
    """Log the dataset as an input of the run: digest, folders and numbers of images and classes."""
    counts = Counter(dataset.split_names)
    parts = dataset.curated.source.parts
    images = {name: counts[name] for name in ("train", "valid", "test")}
    profile = {"classes": len(dataset.classes), **images, PARTS: list(parts)}
    folders = [str(folder) for folder in parts.values()]
    run.log_input(dataset.name, dataset.fingerprint, folders, profile)

"""Connection of a command to the log, the registry and the controller of a model's rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand
from eyevsai.inference_log.store import LogStore
from eyevsai.registry.entities import open_registry, read_model
from eyevsai.registry.lookup import find_name
from eyevsai.rollout.controller import Controller
from eyevsai.serving.rollout_log import StoredRolloutLog
from eyevsai.store.backend import raising_store_errors
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.rollout.registry_writer import RegistryWriter
from eyevsai.workflows.rollout.settings import RolloutCallSettings

if TYPE_CHECKING:
    from eyevsai.core.cancellation import CancellationToken


@dataclass(frozen=True)
class RolloutSession:
    """Controller of a registered model's rollouts, and what it works with."""

    model: str  # registered model
    number: int | None  # of the version that the command named, if it did
    tracking_uri: str
    controller: Controller
    log: StoredRolloutLog
    writer: RegistryWriter
    stop: CancellationToken


@contextmanager
def rollout_session(
    settings: RolloutCallSettings, run_id: str | None = None
) -> Iterator[RolloutSession]:
    """Yield the session of a command.

    Args:
        settings: model and log.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.

    Raises:
        UserError: there is no such model, or the log cannot be used.
        JobError: the store failed, also inside the block.
    """
    if settings.name is None:
        raise UserError("Which model? Name it; `eyevsai registry status` lists the models.")
    url, state_dir = settings.url, expand(settings.state_dir)
    with job_context(state_dir, run_id, creates_runs=False) as job:
        tracking_uri = job.tracking_uri
        with raising_store_errors(tracking_uri, f"The rollout of {settings.name}"):
            client = open_registry(tracking_uri)
            name, number = find_name(tracking_uri, settings.name)
            dataset = read_model(client, name).tags.get("dataset", "")
            store = LogStore.open(url)
            try:
                rollout_log = StoredRolloutLog(store)
                writer = RegistryWriter(client, name, state_dir, dataset)
                controller = Controller(name, rollout_log, writer)
                yield RolloutSession(
                    name, number, tracking_uri, controller, rollout_log, writer, job.stop
                )
            finally:
                store.close()

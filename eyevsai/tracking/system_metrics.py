"""What a run takes of the machine: MLflow's system metrics."""

from __future__ import annotations

import logging

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from eyevsai.core.errors import JobError
from eyevsai.tracking.run import Run

SYSTEM_METRICS_EVERY_S = 2.0


class Monitor(SystemMetricsMonitor):
    """MLflow's own monitor ends at the first call that a store does not answer; this one has the
    run's write queue.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(
            run.run_id,
            sampling_interval=SYSTEM_METRICS_EVERY_S,
            tracking_uri=run.client.tracking_uri,
        )  # type: ignore[no-untyped-call]
        self.run = run

    def monitor(self) -> None:
        """Samples until `finish`."""
        while not self._shutdown_event.is_set():
            self.collect_metrics()  # type: ignore[no-untyped-call]
            self._shutdown_event.wait(self.sampling_interval)
            try:
                self.publish_metrics(self.aggregate_metrics())  # type: ignore[no-untyped-call]
            except JobError:  # the run itself hears of it at its own next entry
                return

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        """Logs one sample."""
        self.run.log_metrics(
            {self._metrics_prefix + name: value for name, value in metrics.items()},
            self._logging_step,
        )
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()


def start_system_metrics(run: Run) -> Monitor:
    """Begins to log what the run takes of the machine; `finish` ends it."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = Monitor(run)
    monitor.start()  # type: ignore[no-untyped-call]
    return monitor

"""MLflow's system metrics of a run: use of CPU, memory, disk, network and GPU."""

from __future__ import annotations

import logging

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from eyevsai.core.errors import JobError
from eyevsai.tracking.run import Run

SYSTEM_METRICS_EVERY_S = 2.0


class Monitor(SystemMetricsMonitor):
    """Monitor that logs samples through the write queue of a run.

    MLflow's own monitor stops at the first request that fails.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(
            run.run_id,
            sampling_interval=SYSTEM_METRICS_EVERY_S,
            tracking_uri=run.client.tracking_uri,
        )  # type: ignore[no-untyped-call]
        self.run = run

    def monitor(self) -> None:
        """Log samples until `finish` is called or the write queue does not accept one."""
        while not self._shutdown_event.is_set():
            self.collect_metrics()  # type: ignore[no-untyped-call]
            self._shutdown_event.wait(self.sampling_interval)
            try:
                self.publish_metrics(self.aggregate_metrics())  # type: ignore[no-untyped-call]
            except JobError:  # the job gets this error, too, from its own next write
                return

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        """Log one sample as a step, and clear the collected values."""
        self.run.log_metrics(
            {self._metrics_prefix + name: value for name, value in metrics.items()},
            self._logging_step,
        )
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()


def start_system_metrics(run: Run) -> Monitor:
    """Start to log system metrics of a run, and return the monitor; its `finish` stops it."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = Monitor(run)
    monitor.start()  # type: ignore[no-untyped-call]
    return monitor

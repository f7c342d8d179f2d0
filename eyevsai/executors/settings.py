"""Settings of parallel jobs and of `train-all`, importable without torch, mlflow or ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Doc, Parameter, Range, Settings, as_flag, require_option

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class ExecutorSettings(Settings):
    """Executor of the jobs, and the resources of each job."""

    PANEL: ClassVar[str] = "Executor"

    executor: Annotated[
        str,
        Choice((LOCAL, RAY)),
        Doc("local: processes on this machine. ray: a Ray cluster (extra ray)."),
    ] = LOCAL
    ray_address: Annotated[
        str | None,
        Doc(
            "Address of a running Ray cluster, such as auto or 10.0.0.1:6379; by default a "
            "temporary one is started on this machine."
        ),
    ] = None
    cpus_per_job: Annotated[
        int | None,
        Range(1, 1024),
        Doc("CPU cores per job; by default an equal share of this machine's cores."),
    ] = None
    gpus_per_job: Annotated[
        float, Range(0.0, 64.0), Doc("GPUs that Ray reserves for each job.")
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ray_address", "gpus_per_job"):
            if self.executor != RAY and getattr(self, name):
                raise UserError(
                    f"{as_flag(name)} requires a Ray cluster: add --executor {RAY}, or omit it."
                )


@dataclass(frozen=True)
class TrainAllSettings(Settings):
    """Datasets and models to train, and the steps before and after training."""

    PANEL: ClassVar[str] = "Jobs"

    datasets: Annotated[
        str | None,
        Parameter(),
        Doc("Dataset names, comma-separated; all folders in --data-dir by default."),
    ] = None
    models: Annotated[
        str | None,
        Parameter(),
        Doc(
            "Comma-separated families, each with all its variations, or single variations such as "
            "deep_v1/residual; all by default."
        ),
    ] = None
    parallel_jobs: Annotated[
        int, Parameter(), Range(1, 1024), Doc("Number of jobs to run in parallel.")
    ] = 1
    run_tuning: Annotated[bool, Parameter(), Doc("Tune each model before training it.")] = False
    tuning_trials: Annotated[
        int, Parameter(), Range(1, 100_000), Doc("Number of trials per study.")
    ] = 15
    evaluate: Annotated[bool, Doc("Evaluate each model on its test split.")] = True
    export: Annotated[
        str | None, Doc("Comma-separated formats to export each model to; none by default.")
    ] = None
    job_timeout: Annotated[
        float | None,
        Range(0.0, 1e9),
        Doc("Seconds after which a job is stopped and marked as failed; it can be resumed."),
    ] = None
    force: Annotated[
        bool, Doc("Repeat jobs that were completed with the same settings, data and code.")
    ] = False
    auto_cleanup: Annotated[
        bool, Doc("Delete older versions at the end, as `eyevsai cleanup` does.")
    ] = False
    keep: Annotated[
        int, Range(1, 10**6), Doc("Newest versions of each model that --auto-cleanup keeps.")
    ] = 3
    output: Annotated[
        str, Doc("Folder for the reports, which are written at the end as by `eyevsai report`.")
    ] = "reports"
    generate_reports_only: Annotated[bool, Doc("Only write the reports; train nothing.")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # --tuning-trials may stay when --run-tuning is switched off: MLproject declares both
        require_option(self, "keep", "auto_cleanup")

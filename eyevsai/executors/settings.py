"""Settings of parallel jobs and of `train-all`, importable without torch, mlflow or ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import (
    Choice,
    Doc,
    NotLogged,
    Parameter,
    Range,
    Settings,
    as_flag,
    require_option,
)

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """Place where work runs: this machine, or a Ray cluster."""

    PANEL: ClassVar[str] = "Executor"
    NEEDS_RAY: ClassVar[tuple[str, ...]] = ("ray_address",)  # without effect on this machine

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.NEEDS_RAY:
            if self.executor != RAY and getattr(self, name):
                raise UserError(
                    f"{as_flag(name)} requires a Ray cluster: add --executor {RAY}, or omit it."
                )


@dataclass(frozen=True)
class ExecutorSettings(ClusterSettings):
    """Executor of the jobs, and the resources of each job."""

    NEEDS_RAY: ClassVar[tuple[str, ...]] = ("ray_address", "gpus_per_job")

    cpus_per_job: Annotated[
        int | None,
        Range(1, 1024),
        Doc("CPU cores per job; by default an equal share of this machine's cores."),
    ] = None
    gpus_per_job: Annotated[
        float, Range(0.0, 64.0), Doc("GPUs that Ray reserves for each job.")
    ] = 0.0


@dataclass(frozen=True)
class ReplicaSettings(ClusterSettings):
    """Executor of a server, and the number and resources of its replicas."""

    NEEDS_RAY: ClassVar[tuple[str, ...]] = (
        "ray_address",
        "replicas",
        "cpus_per_replica",
        "gpus_per_replica",
    )

    executor: Annotated[
        str,
        Choice((LOCAL, RAY)),
        NotLogged(),
        Doc("local: one server. ray: replicas of it on a Ray cluster (extra ray-serve)."),
    ] = LOCAL
    ray_address: Annotated[
        str | None,
        NotLogged(),
        Doc(
            "Address of a running Ray cluster, such as auto or 10.0.0.1:6379; by default a "
            "temporary one is started on this machine."
        ),
    ] = None
    replicas: Annotated[
        int | None,
        Range(1, 1000),
        NotLogged(),
        Doc("Number of replicas, each with all versions that are in use; 1 by default."),
    ] = None
    cpus_per_replica: Annotated[
        int | None,
        Range(1, 1024),
        NotLogged(),
        Doc("CPU cores that Ray reserves for each replica, and its workers; 1 by default."),
    ] = None
    gpus_per_replica: Annotated[
        float,
        Range(0.0, 64.0),
        NotLogged(),
        Doc("GPUs, or a share of one, that Ray reserves for each replica."),
    ] = 0.0


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

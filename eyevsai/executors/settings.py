"""What a person may say of many jobs at once, without torch, mlflow or ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Doc, Parameter, Range, Settings, as_flag

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class ExecutorSettings(Settings):
    """Where jobs run."""

    PANEL: ClassVar[str] = "Executor"

    executor: Annotated[
        str,
        Choice((LOCAL, RAY)),
        Doc("local: processes of this machine. ray: a Ray cluster (extra ray)."),
    ] = LOCAL
    ray_address: Annotated[
        str | None,
        Doc(
            "Address of a running cluster, such as auto or 10.0.0.1:6379; without one Ray is "
            "started here."
        ),
    ] = None
    cpus_per_job: Annotated[
        int | None,
        Range(1, 1024),
        Doc("Cores of each job; by default this machine's, divided among the jobs."),
    ] = None
    gpus_per_job: Annotated[
        float, Range(0.0, 64.0), Doc("GPUs that Ray keeps free for each job.")
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ray_address", "gpus_per_job"):
            if self.executor != RAY and getattr(self, name):
                raise UserError(
                    f"{as_flag(name)} is for a Ray cluster: add --executor {RAY}, or leave it out."
                )


@dataclass(frozen=True)
class TrainAllSettings(Settings):
    """What is trained, and what is done before and after."""

    PANEL: ClassVar[str] = "Jobs"

    datasets: Annotated[
        str | None,
        Parameter(),
        Doc("Datasets by name, with commas; all folders under --data-dir by default."),
    ] = None
    models: Annotated[
        str | None,
        Parameter(),
        Doc(
            "Families, with commas, each with all its variations, or one as deep_v1/residual; "
            "all by default."
        ),
    ] = None
    parallel_jobs: Annotated[int, Parameter(), Range(1, 1024), Doc("Jobs at a time.")] = 1
    run_tuning: Annotated[bool, Parameter(), Doc("Tune each model before it is trained.")] = False
    tuning_trials: Annotated[int, Parameter(), Range(1, 100_000), Doc("Trials of each study.")] = 15
    evaluate: Annotated[bool, Doc("Judge each model by its test split.")] = True
    export: Annotated[
        str | None, Doc("Formats to export each model in, with commas; none by default.")
    ] = None
    job_timeout: Annotated[
        float | None,
        Range(0.0, 1e9),
        Doc("Seconds after which a job is ended as failed; it can be gone on with."),
    ] = None
    force: Annotated[
        bool, Doc("Do what was done before with the same settings, data and code, too.")
    ] = False
    auto_cleanup: Annotated[
        bool, Doc("Delete older versions in the end, as `eyevsai cleanup --keep` does.")
    ] = False
    keep: Annotated[
        int, Range(1, 10**6), Doc("Newest versions of each model that --auto-cleanup keeps.")
    ] = 3
    output: Annotated[
        str, Doc("Folder that reports are written into in the end, as `eyevsai report` does.")
    ] = "reports"
    generate_reports_only: Annotated[bool, Doc("Train nothing, only write the reports.")] = False

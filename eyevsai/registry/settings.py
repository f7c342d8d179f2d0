"""Settings of promotions and cleanups, and the promotion policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import parse_model
from eyevsai.core.names import nearest
from eyevsai.core.paths import expand
from eyevsai.core.settings import (
    CACHE_DIR,
    STATE_DIR,
    Choice,
    Doc,
    Env,
    Parameter,
    Range,
    Settings,
    StateDir,
    as_flag,
    list_settings,
)
from eyevsai.core.shell import quote
from eyevsai.core.toml import read_toml

POLICY, DATASETS = "promotion.toml", "datasets"
DEFAULT_KEEP = 3
CLEANUP_TYPES = ("old_versions", "failed_runs", "tuning", "cache", "orphans")


@dataclass(frozen=True)
class PromoteSettings(Settings):
    """Version to promote, and the stage that it gets."""

    PANEL: ClassVar[str] = "Promotion"

    name: Annotated[
        str | None,
        Parameter(),
        Doc("Registered model, or a version of it, as in `eyevsai registry status`."),
    ] = None
    version: Annotated[int | None, Range(1, 10**9), Parameter(), Doc("Number of the version.")] = (
        None
    )
    to: Annotated[
        str,
        Choice(("production", "staging", "archived")),
        Parameter(),
        Doc("New stage of the version."),
    ] = "production"
    policy: Annotated[
        str | None,
        Doc(
            f"TOML file with the promotion policy; {POLICY} in the current folder by default, if "
            "it exists."
        ),
    ] = None
    force: Annotated[
        bool, Doc("Promote although policy checks fail; requires --reason, and is recorded.")
    ] = False
    class_change: Annotated[
        bool,
        Doc("Promote although the classes differ from those of the stage; this is recorded."),
    ] = False
    reason: Annotated[str | None, Parameter(), Doc("Reason, recorded in the log.")] = None
    state_dir: StateDir = STATE_DIR

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None or (self.version is None and parse_model(self.name).is_name):
            name = quote(self.name or "NAME")
            missing = "version" if self.name else "registered model"
            raise UserError(
                f"promote requires a {missing}. Use: eyevsai promote "
                f"{name}/{self.version or 'VERSION'}. `eyevsai registry status` lists both."
            )
        if self.force and not (self.reason or "").strip():
            raise UserError(
                "--force requires --reason: the log must show why the policy was overridden."
            )


@dataclass(frozen=True)
class CleanupSettings(Settings):
    """Selection of what a cleanup deletes."""

    PANEL: ClassVar[str] = "Cleanup"

    keep: Annotated[
        int | None,
        Range(0, 10**6),
        Parameter(),
        Doc(
            f"Number of newest versions of each model to keep, {DEFAULT_KEEP} by default; "
            "given alone, it implies --old-versions."
        ),
    ] = None
    old_versions: Annotated[
        bool, Doc("Older versions, with their runs, logged models and files.")
    ] = False
    failed_runs: Annotated[
        bool,
        Doc(
            "FAILED runs without a version, with their checkpoints, and KILLED ones older than "
            "--days."
        ),
    ] = False
    tuning: Annotated[bool, Doc("Studies that ended more than --days ago, with their trials.")] = (
        False
    )
    cache: Annotated[
        bool, Doc("Cached pixels and features; they are computed again when needed.")
    ] = False
    orphans: Annotated[
        bool,
        Doc("Files that provably belong to this store, and whose run or logged model is missing."),
    ] = False
    all: Annotated[bool, Doc("All of these types.")] = False
    days: Annotated[
        float, Range(0.0, 36500.0), Doc("Minimum age of deleted studies and KILLED runs in days.")
    ] = 7.0
    including_newest: Annotated[bool, Doc("Let --keep 0 delete the newest versions too.")] = False
    dry_run: Annotated[bool, Doc("Print what would be deleted, and delete nothing.")] = False
    # not declared in MLproject: YAML reads a key `yes` as true
    yes: Annotated[bool, Doc("Skip the confirmation prompt.")] = False
    state_dir: StateDir = STATE_DIR
    cache_dir: Annotated[str, Env("EYEVSAI_CACHE"), Doc("Folder of the cache.")] = CACHE_DIR

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.includes(kind) for kind in CLEANUP_TYPES):
            flags = ", ".join(as_flag(kind) for kind in CLEANUP_TYPES)
            raise UserError(
                f"Nothing to clean up is selected. Select one or more of {flags}, or --all; --keep "
                "alone implies --old-versions. --dry-run shows what would be deleted."
            )
        if self.keep is not None and not self.includes("old_versions"):
            raise UserError(
                f"--keep {self.keep} applies to versions, which are not selected. Add "
                "--old-versions to delete old versions too, or remove --keep."
            )
        if self.including_newest and self.keep != 0:
            raise UserError(
                "--including-newest requires --keep 0. Set it, or omit --including-newest."
            )
        if self.keep == 0 and not self.including_newest:
            raise UserError(
                "--keep 0 deletes every version that is not in use, pinned, aliased or in a "
                "stage. To confirm this, add --including-newest."
            )

    def includes(self, kind: str) -> bool:
        """Return True if one of the types in `CLEANUP_TYPES` is selected."""
        alone = not any(getattr(self, each) for each in CLEANUP_TYPES)
        implied = kind == "old_versions" and self.keep is not None and alone
        return bool(self.all or getattr(self, kind) or implied)

    @property
    def num_kept(self) -> int:
        """Number of newest versions of each model to keep."""
        return DEFAULT_KEEP if self.keep is None else self.keep


@dataclass(frozen=True)
class Policy(Settings):
    """Requirements that a version must meet to be promoted."""

    PANEL: ClassVar[str] = "Policy"

    metric: Annotated[
        str,
        Choice(("accuracy", "macro_f1", "top5_accuracy")),
        Doc("Metric of the test split that is checked."),
    ] = "accuracy"
    floor: Annotated[
        float | None,
        Range(0.0, 1.0),
        Doc(
            "Minimum of the metric; by default, the level of chance plus 3 standard errors must be "
            "exceeded. 0 requires nothing."
        ),
    ] = None
    tolerance: Annotated[
        float,
        Range(0.0, 1.0),
        Doc("Maximum loss of the metric compared with the version in the stage."),
    ] = 0.01
    significance: Annotated[
        float,
        Range(0.0, 1.0),
        Doc("A smaller loss fails too if the p-value of McNemar's test (1947) is below this."),
    ] = 0.05
    max_latency_ms: Annotated[
        float | None,
        Range(0.0, 1e9),
        Doc("Maximum latency for one image, as measured by the evaluation."),
    ] = None
    max_size_mb: Annotated[
        float | None,
        Range(0.0, 1e9),
        Doc("Maximum size of the version's files, without the wheel of eyevsai."),
    ] = None
    exports: Annotated[
        str | None,
        Doc(
            "Required export formats, comma-separated; by default, every existing export must "
            "have passed the parity check."
        ),
    ] = None


def find_policy(path: str | None) -> Path | None:
    """Return the absolute path of the policy file; None if the default file does not exist."""
    file = expand(path or POLICY).absolute()
    return file if path is not None or file.is_file() else None


def describe_policy(path: str | None) -> str:
    """Return a sentence about the policy file that is read, or about where it was looked for."""
    file = find_policy(path)
    if file is None:
        return f"There is no policy file {Path(POLICY).absolute()}: the default policy applies."
    return f"Policy file: {file}"


def read_policy(path: str | None, dataset: str) -> Policy:
    """Return the promotion policy of a dataset.

    Settings in `[datasets.NAME]` override those at the top of the file. Without `path`, the file is
    `promotion.toml` in the current folder; if it does not exist, the defaults apply.

    Raises:
        UserError: the file cannot be read, or has an unknown setting or an invalid value.
    """
    file = find_policy(path)
    if file is None:
        return Policy()
    values = read_toml(file, "The policy", "floor = 0.9")
    for_datasets = values.pop(DATASETS, {})
    dataset_values = for_datasets.get(dataset, {}) if isinstance(for_datasets, dict) else None
    if not isinstance(dataset_values, dict):
        raise UserError(f"{file}: [{DATASETS}.{dataset}] must be a table of settings.")
    return Policy(**parse_policy(Policy, values | dataset_values, file))


def parse_policy(policy: type[Settings], values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the values of a policy file, converted to the types of a policy's settings.

    Args:
        policy: class of the policy.
        values: values of the file by name.
        file: path of the file, for messages.

    Raises:
        UserError: a setting is unknown or its value is invalid.
    """
    settings = {setting.name: setting for setting in list_settings(policy)}
    for name, value in values.items():
        if name not in settings:
            guess = nearest(name, settings)
            raise UserError(
                f"{file}: {name!r} is not a policy setting. "
                f"{f'Did you mean {guess!r}? ' if guess else ''}Use one of {', '.join(settings)}."
            )
        if isinstance(value, dict | list):
            raise UserError(f"{file}: {name} must be a single value, not {value!r}.")
    try:
        return {name: settings[name].parse(str(value)) for name, value in values.items()}
    except UserError as error:  # names the setting like a command-line option
        raise UserError(f"{file}: {str(error).removeprefix('--')}") from None

"""What a person may say about promotions and cleanups, and the policy that a promotion is held
to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.names import nearest
from eyevsai.core.settings import (
    CACHE_DIR,
    STATE_DIR,
    Choice,
    Doc,
    Env,
    Parameter,
    Range,
    Settings,
    as_flag,
    list_settings,
)
from eyevsai.core.toml import read_toml

POLICY, DATASETS = "promotion.toml", "datasets"
KEPT = 3
CLEANED = ("old_versions", "failed_runs", "tuning", "cache", "orphans")


@dataclass(frozen=True)
class PromoteSettings(Settings):
    """Which version goes where."""

    PANEL: ClassVar[str] = "Promotion"

    name: Annotated[
        str | None, Parameter(), Doc("Registered model, as in `eyevsai registry status`.")
    ] = None
    version: Annotated[int | None, Range(1, 10**9), Parameter(), Doc("Number of the version.")] = (
        None
    )
    to: Annotated[
        str, Choice(("production", "staging", "archived")), Parameter(), Doc("Where it goes.")
    ] = "production"
    policy: Annotated[
        str | None,
        Doc(
            f"TOML file of what is asked of a version; {POLICY} here, if there is one, by default."
        ),
    ] = None
    force: Annotated[
        bool, Doc("Promote although the policy says no; takes a --reason, and is recorded.")
    ] = False
    class_change: Annotated[
        bool,
        Doc("Promote although the classes differ from those that the stage has had; is recorded."),
    ] = False
    reason: Annotated[str | None, Parameter(), Doc("Why, for those who read the log.")] = None
    state_dir: Annotated[
        str, Env("EYEVSAI_STATE"), Doc("Folder for what the store could not be told yet.")
    ] = STATE_DIR

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None or self.version is None:
            call = f"eyevsai promote {self.name or 'NAME'} --version {self.version or 'NUMBER'}"
            raise UserError(f"Say what to promote: {call}. See: eyevsai registry status")
        if self.force and not (self.reason or "").strip():
            raise UserError(
                "--force goes past the policy, so it takes a --reason for those who read the "
                "log later."
            )


@dataclass(frozen=True)
class CleanupSettings(Settings):
    """What is deleted."""

    PANEL: ClassVar[str] = "Cleanup"

    keep: Annotated[
        int | None,
        Range(0, 10**6),
        Parameter(),
        Doc(
            f"Newest versions of each model that stay, {KEPT} by default; "
            "given alone it means --old-versions."
        ),
    ] = None
    old_versions: Annotated[bool, Doc("Older versions, with runs, logged models and files.")] = (
        False
    )
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
        bool, Doc("Cached pixels and features; they are computed again when they are needed.")
    ] = False
    orphans: Annotated[
        bool, Doc("Files that provably belong to this store and whose run or logged model is gone.")
    ] = False
    all: Annotated[bool, Doc("All of these.")] = False
    days: Annotated[
        float, Range(0.0, 36500.0), Doc("Age of the studies and KILLED runs that go.")
    ] = 7.0
    including_newest: Annotated[bool, Doc("Let --keep 0 delete the newest versions too.")] = False
    dry_run: Annotated[bool, Doc("Print what would be deleted, and delete nothing.")] = False
    # undeclared in MLproject: a key `yes` is true to YAML
    yes: Annotated[bool, Doc("Do not ask.")] = False
    state_dir: Annotated[
        str, Env("EYEVSAI_STATE"), Doc("Folder for the checkpoints of runs that are not finished.")
    ] = STATE_DIR
    cache_dir: Annotated[str, Env("EYEVSAI_CACHE"), Doc("Folder of the cache.")] = CACHE_DIR

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.includes(kind) for kind in CLEANED):
            flags = ", ".join(as_flag(kind) for kind in CLEANED)
            raise UserError(
                f"Say what to clean up: {flags}, or --all; --keep {KEPT} means --old-versions. "
                "--dry-run shows what would go."
            )
        if self.keep == 0 and not self.including_newest:
            raise UserError(
                "--keep 0 keeps no version of any model but those in use, pinned, aliased or in "
                "a stage. If that is meant, add --including-newest."
            )

    def includes(self, kind: str) -> bool:
        """Whether one of the kinds in `CLEANED` was asked for."""
        implied = kind == "old_versions" and self.keep is not None
        return bool(self.all or getattr(self, kind) or implied)

    @property
    def num_kept(self) -> int:
        """Newest versions of each model that stay."""
        return KEPT if self.keep is None else self.keep


@dataclass(frozen=True)
class Policy(Settings):
    """What is asked of a version before it is promoted."""

    PANEL: ClassVar[str] = "Policy"

    metric: Annotated[
        str,
        Choice(("accuracy", "macro_f1", "top5_accuracy")),
        Doc("The figure on the test split that counts."),
    ] = "accuracy"
    floor: Annotated[float, Range(0.0, 1.0), Doc("The least that it may be.")] = 0.0
    tolerance: Annotated[
        float, Range(0.0, 1.0), Doc("How much less than in Production it may be.")
    ] = 0.01
    significance: Annotated[
        float,
        Range(0.0, 1.0),
        Doc(
            "A smaller loss than that is refused too where chance explains it with less than "
            "this (McNemar 1947)."
        ),
    ] = 0.05
    max_latency_ms: Annotated[
        float | None, Range(0.0, 1e9), Doc("For one image, as its evaluation measured.")
    ] = None
    max_size_mb: Annotated[float | None, Range(0.0, 1e9), Doc("Of all files of the version.")] = (
        None
    )
    exports: Annotated[
        str | None,
        Doc(
            "Formats, with commas, that it must have been exported in; none that was refused by "
            "default."
        ),
    ] = None


def read_policy(path: str | None, dataset: str) -> Policy:
    """The policy of a dataset: what `[datasets.NAME]` of the file says goes before its first lines.

    Raises:
        UserError: the file cannot be read, or says what no policy says.
    """
    file = Path(path or POLICY)
    if path is None and not file.is_file():
        return Policy()
    said = read_toml(file, "The policy", "floor = 0.9")
    for_datasets = said.pop(DATASETS, {})
    own = for_datasets.get(dataset, {}) if isinstance(for_datasets, dict) else None
    if not isinstance(own, dict):
        raise UserError(f"{file}: [{DATASETS}.{dataset}] is no table of settings.")
    return Policy(**_parsed(said | own, file))


def _parsed(said: Mapping[str, Any], file: Path) -> dict[str, Any]:
    known = {setting.name: setting for setting in list_settings(Policy)}
    for name, value in said.items():
        if name not in known:
            guess = nearest(name, known)
            raise UserError(
                f"{file}: there is no {name!r} in a policy. "
                f"{f'Did you mean {guess!r}? ' if guess else ''}It has {', '.join(known)}."
            )
        if isinstance(value, dict | list):
            raise UserError(f"{file}: {name} is one value, not {value!r}.")
    try:
        return {name: known[name].parse(str(value)) for name, value in said.items()}
    except UserError as error:  # which speaks of a flag
        raise UserError(f"{file}: {str(error).removeprefix('--')}") from None

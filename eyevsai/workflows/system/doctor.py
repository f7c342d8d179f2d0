"""Workflow of `doctor`: checks of the environment and the store, and repairs of the store."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from eyevsai.core.cores import count_cores
from eyevsai.core.errors import UserError
from eyevsai.core.quantities import format_count
from eyevsai.data.catalog import list_datasets
from eyevsai.registry.artifacts import Artifacts, locate
from eyevsai.registry.audit_log import check_audit_experiment
from eyevsai.registry.entities import open_registry, read_models
from eyevsai.registry.queries import RunQueries
from eyevsai.registry.versions import find_location
from eyevsai.store.backend import open_store
from eyevsai.store.identity import adopt_store, read_store_id
from eyevsai.store.relocate import Relocation, relocate
from eyevsai.store.schema import check_run_dirs
from eyevsai.store.uris import find_store, mask_password, sqlite_path
from eyevsai.tracking.experiment import check_experiment

PYTHONS = ((3, 11), (3, 13))  # first and last supported version
MIN_FREE_BYTES = 2 * 1024**3
PACKAGES = ("mlflow", "torch", "torchvision", "scikit-learn", "pillow", "safetensors")


@dataclass(frozen=True)
class CheckResult:
    """Result of one check of the environment."""

    subject: str
    ok: bool
    text: str  # findings; with the fix if the check failed


def run_checks(data_dir: Path, state_dir: Path, *, create_store: bool) -> list[CheckResult]:
    """Check Python, packages, compute device, disk, datasets and the store.

    Args:
        data_dir: folder of the datasets.
        state_dir: folder of run state on this machine.
        create_store: create the store if it does not exist. Otherwise that is no failure.
    """
    return [
        _python(),
        _packages(),
        _compute(),
        _disk(),
        _data(data_dir),
        *_store(create_store, state_dir),
    ]


def _python() -> CheckResult:
    (lowest, highest), current = PYTHONS, sys.version_info[:2]
    text = f"Python {sys.version.split()[0]}"
    if lowest <= current <= highest:
        return CheckResult("python", True, text)
    return CheckResult("python", False, f"{text}; use 3.{lowest[1]} to 3.{highest[1]}")


def _packages() -> CheckResult:
    installed, missing = [], []
    for name in PACKAGES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return CheckResult(
            "packages", False, f"missing: {', '.join(missing)}; run: pip install -e ."
        )
    return CheckResult("packages", True, ", ".join(installed))


def _compute() -> CheckResult:
    import torch

    from eyevsai.training.device import find_device, find_precision

    device = find_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    precision = str(find_precision("auto", device)).removeprefix("torch.")
    cores = count_cores()
    return CheckResult(
        "compute",
        True,
        f"{name}, training in {precision}, {torch.get_num_threads()} threads on {cores} cores",
    )


def _disk() -> CheckResult:
    free = shutil.disk_usage(".").free
    text = f"{free / 1024**3:.1f} GiB free in {Path.cwd()}"
    if free < MIN_FREE_BYTES:
        return CheckResult("disk", False, f"{text}; free disk space: each run stores a model")
    return CheckResult("disk", True, text)


def _data(root: Path) -> CheckResult:
    names = ", ".join(list_datasets(root))
    if root.is_dir():
        return CheckResult("data", True, f"{names} (data directory {root})")
    return CheckResult(
        "data",
        True,
        f"{names}; for other datasets, create {root} or set --data-dir or EYEVSAI_DATA",
    )


def _store(create: bool, state_dir: Path) -> list[CheckResult]:
    """Check that the store can be opened and owns its files, and check its versions."""
    try:
        uri = find_store()
    except UserError as error:
        return [CheckResult("store", False, str(error))]
    path = sqlite_path(uri)
    if not create and path is not None and not path.exists():
        return [
            CheckResult(
                "store",
                True,
                f"{path} does not exist yet; the first job or eyevsai doctor --init creates it",
            )
        ]
    try:
        open_store()
        check_run_dirs(state_dir)
    except UserError as error:
        return [CheckResult("store", False, str(error))]

    doubt = read_store_id(open_registry(uri)).doubt
    if doubt:
        text = (
            f"{mask_password(uri)}: {doubt}, so cleanup --orphans keeps all unknown files. "
            "To use it as an independent store: eyevsai doctor --adopt"
        )
        return [CheckResult("store", False, text), *_experiments(uri), _versions(uri)]
    return [CheckResult("store", True, mask_password(uri)), *_experiments(uri), _versions(uri)]


def _experiments(uri: str) -> list[CheckResult]:
    """Return a failed check for each experiment that commands need and that was deleted."""
    failures = []
    for check in (check_experiment, check_audit_experiment):
        try:
            check(uri)
        except UserError as error:
            failures.append(CheckResult("experiment", False, str(error)))
    return failures


def _versions(uri: str) -> CheckResult:
    """Check that the files of all versions with a stage or an alias exist."""
    client = open_registry(uri)
    used = [
        version
        for model in read_models(client)
        for version in model.versions
        if version.aliases or version.stage in ("Production", "Staging")
    ]
    locations = {
        version.uri: find_location(client, version.name, version.number) for version in used
    }
    missing = [
        f"{name} ({location})" for name, location in locations.items() if locate(uri, location)[1]
    ]
    if missing:
        return CheckResult(
            "versions",
            False,
            f"the files of {', '.join(missing)} are missing: restore them from a backup, or "
            "promote another version",
        )
    return CheckResult("versions", True, f"{len(used)} with a stage or an alias; their files exist")


def adopt() -> str:
    """Assign a new identity to a copied store; return a sentence that describes the result.

    If the original database does not exist any more, the files that this store refers to become its
    own. Otherwise they stay the original's: this store can read them, but never deletes them.

    Raises:
        UserError: the store cannot be opened or written.
    """
    client = open_registry(open_store())
    former = adopt_store(client)
    if former is None:
        return "The store is not a copy. Nothing was changed."
    original = Path(former.original) if former.original else None
    current = sqlite_path(client.tracking_uri)
    if (
        original is not None
        and original.exists()
        and not (current is not None and current.resolve() == original)
    ):
        return (
            f"The store has a new identity. The original, {original}, exists: files from before "
            "the copy stay the original's, and no cleanup of this store deletes them."
        )
    artifacts = Artifacts(client)
    content = RunQueries(client, artifacts.experiment_ids).store_content()
    count = artifacts.take_over(
        [*content.runs, *content.models], former.ids, min(read_store_id(client).ids)
    )
    return (
        f"The store has a new identity, and owns {format_count(count, 'folder')} of runs and "
        "models of the original."
    )


def relocate_store() -> Relocation:
    """Correct the paths in a SQLite store that was moved with its project folder.

    A backup of the store is made first.

    Raises:
        UserError: the store is not a SQLite file, was not moved, or cannot be read or written.
    """
    uri = find_store()
    path = sqlite_path(uri)
    if path is None:
        raise UserError(
            f"The store {mask_password(uri)} cannot be relocated: it is not a SQLite file in a "
            "project folder."
        )
    return relocate(path)

"""doctor: is everything here that a job needs, and what is to be mended."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.data.catalog import list_datasets
from eyevsai.executors.factory import count_cores
from eyevsai.registry.artifacts import Artifacts, locate
from eyevsai.registry.entities import open_registry, read_models
from eyevsai.registry.queries import RunQueries
from eyevsai.registry.versions import find_location
from eyevsai.store.backend import open_store
from eyevsai.store.identity import adopt_store, read_store_id
from eyevsai.store.relocate import Relocation, relocate
from eyevsai.store.schema import check_run_dirs
from eyevsai.store.uris import find_store, mask_password, sqlite_path

PYTHONS = ((3, 11), (3, 13))
MIN_FREE_BYTES = 2 * 1024**3
PACKAGES = ("mlflow", "torch", "torchvision", "scikit-learn", "pillow", "safetensors")


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at."""

    subject: str
    ok: bool
    text: str


def run_checks(data_dir: Path, state_dir: Path, *, create_store: bool) -> list[CheckResult]:
    """Looks at Python, packages, compute, disk, datasets and the store, which is created if
    wished.
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
    (low, high), here = PYTHONS, sys.version_info[:2]
    text = f"Python {sys.version.split()[0]}"
    if low <= here <= high:
        return CheckResult("python", True, text)
    return CheckResult("python", False, f"{text}; use 3.{low[1]} to 3.{high[1]}")


def _packages() -> CheckResult:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return CheckResult(
            "packages", False, f"missing: {', '.join(missing)}; run: pip install -e ."
        )
    return CheckResult("packages", True, ", ".join(found))


def _compute() -> CheckResult:
    import torch

    from eyevsai.training.device import find_device, find_precision

    device = find_device("auto")
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    precision = str(find_precision("auto", device)).removeprefix("torch.")
    cores = count_cores()
    return CheckResult(
        "compute",
        True,
        f"{kind}, training in {precision}, {torch.get_num_threads()} threads on {cores} cores",
    )


def _disk() -> CheckResult:
    free = shutil.disk_usage(".").free
    text = f"{free / 1024**3:.1f} GiB free in {Path.cwd()}"
    if free < MIN_FREE_BYTES:
        return CheckResult("disk", False, f"{text}; make room: runs keep a model each")
    return CheckResult("disk", True, text)


def _data(root: Path) -> CheckResult:
    names = ", ".join(list_datasets(root))
    if root.is_dir():
        return CheckResult("data", True, f"{names} (data directory {root})")
    return CheckResult(
        "data", True, f"{names}; no folder {root} with your own: set --data-dir or EYEVSAI_DATA"
    )


def _store(create: bool, state_dir: Path) -> list[CheckResult]:
    uri = find_store()
    path = sqlite_path(uri)
    if not create and path is not None and not path.exists():
        return [
            CheckResult(
                "store",
                True,
                f"none yet at {path}; the first job creates it, or: eyevsai doctor --init",
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
            "If it is a store of its own: eyevsai doctor --adopt"
        )
        return [CheckResult("store", False, text), _versions(uri)]
    return [CheckResult("store", True, mask_password(uri)), _versions(uri)]


def _versions(uri: str) -> CheckResult:
    """Look for the files of each version that has a stage or an alias."""
    client = open_registry(uri)
    used = [
        version
        for model in read_models(client)
        for version in model.versions
        if version.aliases or version.stage in ("Production", "Staging")
    ]
    places = {version.uri: find_location(client, version.name, version.number) for version in used}
    gone = [f"{name} ({place})" for name, place in places.items() if locate(uri, place)[1]]
    if gone:
        return CheckResult(
            "versions",
            False,
            f"the files of {', '.join(gone)} are gone: restore them from a backup, or "
            "promote another version",
        )
    return CheckResult(
        "versions", True, f"{len(used)} with a stage or an alias; their files are there"
    )


def adopt() -> str:
    """Give a copied store an identity of its own; return what was done, in a sentence.

    If the original database is gone, the files that this store names become its own. While it is
    there, they stay the original's: this store reads them, and deletes none of them.

    Raises:
        UserError: the store cannot be opened or written.
    """
    client = open_registry(open_store())
    former = adopt_store(client)
    if former is None:
        return "The store was no copy: nothing changed."
    original = Path(former.original) if former.original else None
    here = sqlite_path(client.tracking_uri)
    if (
        original is not None
        and original.exists()
        and not (here is not None and here.resolve() == original)
    ):
        return (
            f"The store has an identity of its own now. The original, {original}, is there: "
            "files of runs from before the copy stay the original's, and no cleanup of this store "
            "deletes them."
        )
    artifacts = Artifacts(client)
    known = RunQueries(client, artifacts.experiment_ids).store_content()
    count = artifacts.take_over(
        [*known.runs, *known.models], former.ids, min(read_store_id(client).ids)
    )
    return (
        f"The store has an identity of its own now, and owns {count} folders of runs and models "
        "of the original."
    )


def relocate_store() -> Relocation:
    """Mends the paths of a SQLite store that was moved with its project folder, after a copy.

    Raises:
        UserError: the store is none that lies in a file, or there is nothing to mend.
    """
    uri = find_store()
    path = sqlite_path(uri)
    if path is None:
        raise UserError(
            f"The store {mask_password(uri)} does not lie in a project folder: there is nothing "
            "to relocate."
        )
    return relocate(path)

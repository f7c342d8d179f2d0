"""data download: a published dataset, downloaded, checked, unpacked and laid out as class
folders, or not there at all.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from eyevsai.core.atomic_dir import atomic_output_dir
from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested, UserError
from eyevsai.core.hashing import hash_file
from eyevsai.core.locks import exclusive
from eyevsai.core.names import choose
from eyevsai.core.version import VERSION
from eyevsai.data.archive_layout import (
    place_by_folder,
    place_by_name,
    read_official,
    read_record,
    write_class_folders,
    write_record,
)
from eyevsai.data.archives import UnsafeArchiveError, extract
from eyevsai.data.catalog import UNIONS, DatasetFolder
from eyevsai.data.download import DownloadUrl, download, hash_md5
from eyevsai.data.files import SUFFIXES
from eyevsai.data.image_folder import index_dataset
from eyevsai.data.kaggle import check_kagglehub, locate_dataset
from eyevsai.data.settings import DownloadSettings
from eyevsai.data.sources import SOURCES, Archive, DatasetSource, expand_union
from eyevsai.store.tags import JOB
from eyevsai.store.uris import mask_password
from eyevsai.workflows.shutdown import handling_signals

DOWNLOADS = ".downloads"  # in the data directory: no dataset, being hidden
LISTS = frozenset({".txt"})

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class DownloadedDataset:
    """A dataset that is there now."""

    name: str
    folder: Path
    images: int
    classes: dict[str, int]
    splits: dict[str, int]  # images of each split that it was published with
    is_new: bool


def download_datasets(
    settings: DownloadSettings, run_id: str | None = None
) -> list[DownloadedDataset]:
    """Gets a dataset, or the parts of a union, of which training composes it; what is there already
    stays.

    Writes the call down on the run that `mlflow run` made for it, if one did. One part that fails
    leaves the others.

    Raises:
        UserError: no such dataset, an archive that is none, or a part of this program that is not
            installed.
        JobError: what cannot be downloaded or written, with what to do by hand.
    """
    if settings.dataset is None:
        raise UserError(f"Name a dataset: {', '.join((*SOURCES, *UNIONS))}.")
    name = choose("published dataset", settings.dataset, (*SOURCES, *UNIONS))
    if run_id is None:
        with handling_signals() as stop:
            return _download_all(name, settings, stop)
    from eyevsai.workflows.job_context import job_context

    tags = {JOB: "data", "dataset": name}
    with job_context(settings.state_dir, run_id) as job, job.start_run("data", tags):
        return _download_all(name, settings, job.stop)


def _download_all(
    name: str, settings: DownloadSettings, stop: CancellationToken
) -> list[DownloadedDataset]:
    parts = expand_union(name)
    if settings.archive is not None and len(parts) > 1:
        raise UserError(
            f"{name} is made of {', '.join(parts)}: get each with an --archive of its own."
        )
    got: list[DownloadedDataset] = []
    failures: list[UserError] = []
    for part in parts:
        try:
            got.append(_download(SOURCES[part], settings, stop))
        except UserError as error:
            failures.append(error)
    if failures:
        raise type(failures[-1])("\n".join(map(str, failures)))
    return got


def _download(
    published: DatasetSource, settings: DownloadSettings, stop: CancellationToken
) -> DownloadedDataset:
    """The dataset, which is fetched if it is not there."""
    root = Path(settings.data_dir).expanduser()
    target = root / published.name
    lock = root / DOWNLOADS / f"{published.name}.lock"
    busy = f"Another process is getting {published.name} right now. Wait until it is done."
    with _raising_disk_errors(root), exclusive(lock, busy):
        if target.exists() and (there := _find_existing(published, target, force=settings.force)):
            return there
        for left in root.glob(f".{published.name}-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        return _fetch(published, settings, target.resolve(), stop)


def _find_existing(
    published: DatasetSource, target: Path, *, force: bool
) -> DownloadedDataset | None:
    """What is at `target`, unless it is to be got again."""
    record = read_record(target)
    if record is None:
        if target.is_dir() and not any(target.iterdir()):
            return None
        if force:
            raise UserError(
                f"{target} was not made by this command and is not replaced. Move it away first."
            )
        record = {"splits": {}}
    elif force:
        return None
    index = index_dataset(DatasetFolder(published.name, {published.name: target}))
    classes = dict.fromkeys(index.classes, 0)
    for file in index.files:
        classes[file.label] += 1
    if record.get("classes", classes) != classes:
        log.warning(
            "%s is not what was got: %d images were, %d are there. --force gets it again.",
            target,
            record["images"],
            len(index.files),
        )
    return DownloadedDataset(
        published.name, target, len(index.files), classes, record["splits"], is_new=False
    )


def _fetch(
    published: DatasetSource, settings: DownloadSettings, target: Path, stop: CancellationToken
) -> DownloadedDataset:
    wants_official = settings.splits == "published" and published.splits is not None
    wanted = [
        published.images,
        *([published.splits] if wants_official and published.splits else []),
    ]
    downloads = Path(settings.data_dir).expanduser() / DOWNLOADS / published.name
    downloads.mkdir(parents=True, exist_ok=True)
    paths = [_find(published, archive, settings, downloads) for archive in wanted]
    with atomic_output_dir(target, "--data-dir") as building:
        for archive, path in zip(wanted, paths, strict=True):
            log.info("unpacking %s", archive.file)
            suffixes = SUFFIXES if archive is published.images else LISTS
            with _deleting_unsafe(path):
                left_out = extract(path, building / archive.file, suffixes)
            if left_out and archive is published.images:
                log.info("left out, being no images: %d files", left_out)
        images = building / published.images.file
        if published.splits is None:
            placed = place_by_folder(images)
        else:
            placed = place_by_name(
                images, read_official(building / published.splits.file) if wants_official else None
            )
        new = building / "dataset"
        counts = write_class_folders(placed, new, keep_splits=settings.splits != "none")
        archives = [
            {"url": archive.page, "bytes": path.stat().st_size, "sha256": hash_file(path)}
            for archive, path in zip(wanted, paths, strict=True)
        ]
        about = {
            "name": published.name,
            "archives": archives,
            "eyevsai": VERSION,
            "got": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_record(new, about | counts)
        with stop.shielded():
            _move_into_place(new, target, building / "before")
    for path in downloads.glob("*.part"):
        path.unlink()
    if len(counts["classes"]) != published.num_classes:
        log.warning(
            "%s has %d classes, where its publisher names %d.",
            published.name,
            len(counts["classes"]),
            published.num_classes,
        )
    return DownloadedDataset(published.name, target, is_new=True, **counts)


def _find(
    published: DatasetSource, archive: Archive, settings: DownloadSettings, downloads: Path
) -> Path:
    """The archive: one that a person downloaded, or else from the mirror or the publisher."""
    by_hand = downloads / archive.file
    if settings.archive is not None and archive is published.images:
        by_hand = Path(settings.archive).expanduser()
        if not by_hand.is_file():
            raise UserError(f"There is no file {by_hand}. Check --archive.")
    if by_hand.is_file():
        log.info("taking %s, which is here", by_hand)
        if archive.md5 is not None and hash_md5(by_hand) != archive.md5:
            raise UserError(
                f"{by_hand} is not the published {archive.file}, whose MD5 is {archive.md5}: it "
                "is damaged or not complete. Download it again."
            )
        return by_hand

    def _locate() -> DownloadUrl:
        if settings.mirror is not None:
            return DownloadUrl(
                f"{settings.mirror.rstrip('/')}/{published.name}/{archive.file}", archive.md5
            )
        return (
            locate_dataset(archive.handle)
            if archive.handle
            else DownloadUrl(archive.page, archive.md5)
        )

    what_else = (
        f"Or download {archive.page} with a browser, leave the file at {by_hand}, and run the "
        f"same command again{'; or name it with --archive' if archive is published.images else ''}."
    )
    publisher = mask_password(settings.mirror) if settings.mirror else archive.page
    log.info("downloading %s of %s from %s", archive.file, published.name, publisher)
    try:
        if archive.handle and settings.mirror is None:
            check_kagglehub(published.name)
        return download(_locate, downloads, archive.file)
    except UserError as error:
        raise type(error)(f"{published.name}: {error} {what_else}") from error
    except (KeyboardInterrupt, TerminationRequested):
        log.info("interrupted; what was downloaded is kept, and the same command goes on with it")
        raise


def _move_into_place(new: Path, target: Path, before: Path) -> None:
    """Moves a finished folder to `target`; what was there goes to `before`, and comes back if that
    fails.
    """
    if target.exists():
        target.rename(before)
    try:
        new.rename(target)
    except OSError:
        if before.exists():
            before.rename(target)
        raise


@contextmanager
def _deleting_unsafe(path: Path) -> Iterator[None]:
    """Deletes an archive of our own that cannot be unpacked, so that the next call downloads it
    anew.
    """
    try:
        yield
    except UnsafeArchiveError as error:
        if path.suffix != ".part":
            raise
        path.unlink()
        raise JobError(
            f"{error} It was deleted; run the same command again to download it anew."
        ) from error


@contextmanager
def _raising_disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobError(
            f"{error.filename or root} cannot be read or written: {error.strerror or error}. "
            "Mend that, make room, or choose another --data-dir."
        ) from error

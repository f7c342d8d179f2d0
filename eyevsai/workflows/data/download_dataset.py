"""Workflow of `data download`: download, verification and unpacking of a published dataset.

The result has one folder per class. It replaces the dataset folder atomically.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from eyevsai.core.atomic_dir import atomic_output_dir
from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested, UserError
from eyevsai.core.hashing import hash_file
from eyevsai.core.locks import exclusive
from eyevsai.core.names import choose
from eyevsai.core.paths import expand
from eyevsai.core.quantities import format_count
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

DOWNLOADS = ".downloads"  # in the data directory; hidden folders are not datasets
LISTS = frozenset({".txt"})  # suffixes of the files in an archive of split lists

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class DownloadedDataset:
    """Downloaded dataset, or one that existed already."""

    name: str
    folder: Path
    images: int
    classes: dict[str, int]  # number of images by class
    splits: dict[str, int]  # number of images by provided split; empty if it has none
    is_new: bool  # True if it was downloaded by this call


def download_datasets(
    settings: DownloadSettings, run_id: str | None = None
) -> list[DownloadedDataset]:
    """Download a published dataset, or all parts of a union.

    Datasets that exist are kept, unless `settings.force` is set. If a part fails, the others are
    downloaded before the error is raised.

    Args:
        settings: the dataset, its source and its layout.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`, where no
            run is created.

    Returns:
        One entry per part; training composes a union of its parts.

    Raises:
        UserError: the dataset is unknown, an archive is unusable, or kagglehub is not installed.
        JobError: an archive cannot be downloaded, or a file cannot be read or written; the message
            describes the manual download.
    """
    if settings.dataset is None:
        raise UserError(f"--dataset is required. Use one of {', '.join((*SOURCES, *UNIONS))}.")
    name = choose("published dataset", settings.dataset, (*SOURCES, *UNIONS))
    if run_id is None:
        with handling_signals() as stop:
            return _download_all(name, settings, stop)
    from eyevsai.workflows.job_context import job_context

    tags = {JOB: "data", "dataset": name}
    with (
        job_context(settings.state_dir, run_id) as job,
        job.start_run("data", tags, interruption_hint=""),
    ):
        return _download_all(name, settings, job.stop)


def _download_all(
    name: str, settings: DownloadSettings, stop: CancellationToken
) -> list[DownloadedDataset]:
    """Download the parts of a union, or a single dataset.

    Args:
        name: name of the dataset or union.
        settings: source and layout.
        stop: cancellation token of the job.

    Raises:
        UserError: `--archive` is used for a union, or parts failed: the error has the class of the
            last failure, for example JobError, and all messages.
    """
    parts = expand_union(name)
    if settings.archive is not None and len(parts) > 1:
        raise UserError(
            f"--archive cannot be used for the union {name}. Download each of its parts with its "
            f"own --archive: {', '.join(parts)}."
        )
    downloaded: list[DownloadedDataset] = []
    failures: list[UserError] = []
    for part in parts:
        try:
            downloaded.append(_download(SOURCES[part], settings, stop))
        except UserError as error:
            failures.append(error)
    if failures:
        raise type(failures[-1])("\n".join(map(str, failures)))
    return downloaded


def _download(
    source: DatasetSource, settings: DownloadSettings, stop: CancellationToken
) -> DownloadedDataset:
    """Return a dataset; download it if it does not exist or must be replaced.

    Raises:
        UserError: another process is downloading it, or the existing folder must not be replaced.
        JobError: a file cannot be read or written.
    """
    root = expand(settings.data_dir).absolute()
    target = root / source.name
    lock = root / DOWNLOADS / f"{source.name}.lock"
    busy = f"Another process is downloading {source.name}. Wait until it ends."
    with _raising_disk_errors(root), exclusive(lock, busy):
        if target.exists() and (existing := _find_existing(source, target, force=settings.force)):
            return existing
        # temporary folders of processes that were killed
        for stale in root.glob(f".{source.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        return _fetch(source, settings, target.resolve(), stop)


def _find_existing(source: DatasetSource, target: Path, *, force: bool) -> DownloadedDataset | None:
    """Return the dataset in the folder `target`; None if it must be downloaded.

    That applies to an empty folder, and with `force` to a dataset of an earlier download. Logs a
    warning if the images changed since the download.

    Args:
        source: the published dataset.
        target: existing folder.
        force: replace the dataset.

    Raises:
        UserError: `force` would replace a folder that was not downloaded.
    """
    record = read_record(target)
    if record is None:
        if target.is_dir() and not any(target.iterdir()):
            return None
        if force:
            raise UserError(
                f"--force does not replace {target}, which was not created by this command. Move "
                "the folder first."
            )
        record = {"splits": {}}
    elif force:
        return None
    index = index_dataset(DatasetFolder(source.name, {source.name: target}))
    classes = dict.fromkeys(index.classes, 0)
    for file in index.files:
        classes[file.label] += 1
    if record.get("classes", classes) != classes:
        log.warning(
            "%s has changed since the download: it had %d images, and has %d now. Use --force to "
            "download it again.",
            target,
            record["images"],
            len(index.files),
        )
    return DownloadedDataset(
        source.name, target, len(index.files), classes, record["splits"], is_new=False
    )


def _fetch(
    source: DatasetSource, settings: DownloadSettings, target: Path, stop: CancellationToken
) -> DownloadedDataset:
    """Download, unpack and arrange a dataset, and move it to `target`.

    Logs a warning if the number of classes differs from that of the publisher.

    Args:
        source: the published dataset.
        settings: source and layout.
        target: folder of the dataset; an existing one is replaced.
        stop: cancellation token of the job, which is shielded during the move.

    Raises:
        UserError: an archive is unusable, or kagglehub is not installed.
        JobError: an archive cannot be downloaded.
        OSError: a file cannot be read or written.
    """
    use_official = settings.splits == "published" and source.splits is not None
    archives = [source.images, *([source.splits] if use_official and source.splits else [])]
    downloads = expand(settings.data_dir) / DOWNLOADS / source.name
    downloads.mkdir(parents=True, exist_ok=True)
    paths = [_get_archive(source, archive, settings, downloads) for archive in archives]
    with atomic_output_dir(target, "--data-dir") as building:
        for archive, path in zip(archives, paths, strict=True):
            _unpack(path, building / archive.file, is_images=archive is source.images)
        images = building / source.images.file
        if source.splits is None:
            placed = place_by_folder(images)
        else:
            placed = place_by_name(
                images, read_official(building / source.splits.file) if use_official else None
            )
        new = building / "dataset"
        counts = write_class_folders(placed, new, keep_splits=settings.splits != "none")
        write_record(new, _describe_origin(source, archives, paths) | counts)
        with stop.shielded():
            _move_into_place(new, target, building / "before")
    for path in downloads.glob("*.part"):
        path.unlink()
    if len(counts["classes"]) != source.num_classes:
        log.warning(
            "%s has %d classes, but the publisher states %d.",
            source.name,
            len(counts["classes"]),
            source.num_classes,
        )
    return DownloadedDataset(source.name, target, is_new=True, **counts)


def _unpack(path: Path, folder: Path, *, is_images: bool) -> None:
    """Unpack the archive `path` to `folder`: its images, or its split lists."""
    log.info("Unpacking %s", folder.name)
    with _deleting_unsafe(path):
        left_out = extract(path, folder, SUFFIXES if is_images else LISTS)
    if left_out and is_images:
        log.info("Left out %s of other types than images", format_count(left_out, "file"))


def _describe_origin(
    source: DatasetSource, archives: Sequence[Archive], paths: Sequence[Path]
) -> dict[str, Any]:
    """Return the part of a dataset's record about its archives, whose local files are `paths`."""
    return {
        "name": source.name,
        "archives": [
            {"url": archive.page, "bytes": path.stat().st_size, "sha256": hash_file(path)}
            for archive, path in zip(archives, paths, strict=True)
        ],
        "eyevsai": VERSION,
        "got": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _get_archive(
    source: DatasetSource, archive: Archive, settings: DownloadSettings, downloads: Path
) -> Path:
    """Return the path of an archive: a manual download, or else from the mirror or publisher.

    Args:
        source: the published dataset.
        archive: archive of the images or of the split lists.
        settings: `archive`, the manual download of the images, and the URL of the mirror.
        downloads: folder for archives and partial downloads.

    Raises:
        UserError: `settings.archive` does not exist, a manual download does not match the published
            MD5, or kagglehub is not installed.
        JobError: the download failed.
    """
    manual = downloads / archive.file
    if settings.archive is not None and archive is source.images:
        manual = expand(settings.archive)
        if not manual.is_file():
            raise UserError(f"There is no file {manual}. Check --archive.")
    if manual.is_file():
        log.info("Using the existing file %s", manual)
        if archive.md5 is not None and hash_md5(manual) != archive.md5:
            raise UserError(
                f"{manual} is damaged or incomplete: its MD5 is not {archive.md5}, that of the "
                f"published {archive.file}. Download it again."
            )
        return manual

    option = "; or use it with --archive" if archive is source.images else ""
    manual_fix = (
        f"Or download {archive.page} with a browser, save the file as {manual}, and run the same "
        f"command again{option}."
    )
    publisher = mask_password(settings.mirror) if settings.mirror else archive.page
    log.info("Downloading %s of %s from %s", archive.file, source.name, publisher)
    try:
        if archive.handle and settings.mirror is None:
            check_kagglehub(source.name)
        locate = partial(_locate, source, archive, settings.mirror)
        return download(locate, downloads, archive.file)
    except UserError as error:
        raise type(error)(f"{source.name}: {error} {manual_fix}") from error
    except (KeyboardInterrupt, TerminationRequested):
        log.info("Interrupted. Run the same command again to resume the download.")
        raise


def _locate(source: DatasetSource, archive: Archive, mirror: str | None) -> DownloadUrl:
    """Return the current URL of an archive on the mirror, on Kaggle or of the publisher."""
    if mirror is not None:
        return DownloadUrl(f"{mirror.rstrip('/')}/{source.name}/{archive.file}", archive.md5)
    if archive.handle:
        return locate_dataset(archive.handle)
    return DownloadUrl(archive.page, archive.md5)


def _move_into_place(new: Path, target: Path, before: Path) -> None:
    """Rename the folder `new` to `target`; an existing `target` is renamed to `before` first.

    If the second rename fails, the first one is undone.

    Raises:
        OSError: a folder cannot be renamed.
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
    """Delete the archive `path` if the block rejects it, so that the next call downloads it again.

    Only archives that this command downloaded (`*.part`) are deleted.

    Raises:
        JobError: the archive was rejected and deleted.
        UnsafeArchiveError: the archive was rejected and is a manual download.
    """
    try:
        yield
    except UnsafeArchiveError as error:
        if path.suffix != ".part":
            raise
        path.unlink()
        raise JobError(
            f"{error} It was deleted. Run the same command to download it again."
        ) from error


@contextmanager
def _raising_disk_errors(root: Path) -> Iterator[None]:
    """Convert OSErrors of the block to JobErrors; `root` is named if an error has no path."""
    try:
        yield
    except OSError as error:
        raise JobError(
            f"{error.filename or root} cannot be read or written: {error.strerror or error}. "
            "Fix its permissions, free disk space, or choose another --data-dir."
        ) from error

"""Copy of the last good version on this machine, from which a server starts without the registry.

The folder has a record, which names the folder of the version and the checksums of its files. The
record is replaced last, so that a server that dies meanwhile leaves the former copy in use.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.core.names import to_file_name
from eyevsai.serving.http.registry_source import FetchedVersion, LoadOptions, load_folder
from eyevsai.serving.http.versions import LoadedVersion

log = logging.getLogger("eyevsai")

FOLDER = "serving"  # in the state directory
RECORD, LOCK = "last_good.json", "lock"


@dataclass(frozen=True)
class _Record:
    """Content of the file RECORD."""

    store: str
    model: str
    version: int
    threshold: float | None
    folder: str
    files: dict[str, str]  # SHA-256 by relative path


class LastGood:
    """Last version of a reference that loaded and passed its probe.

    Args:
        state_dir: folder of run state.
        store: URI of the tracking store without passwords: a copy from another store is not used.
        reference: reference that is served, such as `NAME@production`.
    """

    def __init__(self, state_dir: Path, store: str, reference: str) -> None:
        self._folder = state_dir / FOLDER / to_file_name(reference)
        self._store = store

    def save(self, fetched: FetchedVersion) -> None:
        """Copy a version, and delete the former copy. A full disk is logged, not raised."""
        version = fetched.version
        name = f"version-{version.number}-{uuid.uuid4().hex[:8]}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / LOCK):  # replicas on one machine delete each other's copy
                self._replace(fetched, name)
        except OSError as error:
            shutil.rmtree(self._folder / name, ignore_errors=True)
            log.warning(
                "%s is served, but a start without the registry will not find it: %s cannot be "
                "written (%s).",
                version.uri,
                self._folder,
                error.strerror or error,
            )

    def _replace(self, fetched: FetchedVersion, name: str) -> None:
        """Copy a version to the folder `name`, unless it is the last good one already."""
        version, record = fetched.version, self._read()
        files = _hash_files(fetched.folder)
        if record is not None and (record.version, record.files) == (version.number, files):
            return
        shutil.copytree(fetched.folder, self._folder / name)
        new = _Record(self._store, version.name, version.number, fetched.threshold, name, files)
        write_atomically(self._folder / RECORD, json.dumps(asdict(new)))
        for path in self._folder.glob("version-*"):
            if path.name != name:
                shutil.rmtree(path, ignore_errors=True)

    def load(self, options: LoadOptions) -> LoadedVersion | None:
        """Load the copy after its files were compared with their checksums; None without one.

        Raises:
            UserError: a file of the copy was changed, or it does not load.
        """
        record = self._read()
        if record is None or record.store != self._store:
            return None
        folder = self._folder / record.folder
        if _hash_files(folder) != record.files:
            raise UserError(
                f"The copy of the last good version, {folder}, was changed (SHA-256). Delete it, "
                "and start the server while the registry is reachable."
            )
        return load_folder(record.model, record.version, folder, record.threshold, options)

    def _read(self) -> _Record | None:
        try:
            values: dict[str, Any] = json.loads((self._folder / RECORD).read_text("utf-8"))
            return _Record(**values)
        except (OSError, ValueError, TypeError):
            return None


def _hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

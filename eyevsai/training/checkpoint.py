"""Checkpoints: the state from which a training loop resumes, written to disk atomically.

A checkpoint consists of a uniquely named `.safetensors` file and of `checkpoint.json`, which is
renamed into place last and contains the name of that file, its SHA-256, and the SHA-256 of its own
content. The previous checkpoint is kept as `checkpoint.previous.json`, as a fallback for one that
is incomplete or damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, UserError, write_error
from eyevsai.core.hashing import hash_file

log = logging.getLogger("eyevsai")

NEWEST, PREVIOUS, FORMAT = "checkpoint.json", "checkpoint.previous.json", 2


@dataclass(frozen=True)
class Checkpoint:
    """State of a training loop: tensors by name, and values that JSON can represent."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """Checkpoints of one run."""

    def __init__(
        self,
        folder: Path | None = None,
        every_s: float = float("inf"),
        stop: CancellationToken | None = None,
    ) -> None:
        """Configure the checkpoints; nothing is read or written.

        Args:
            folder: folder of the files, created by `save`; None saves and loads nothing.
            every_s: seconds between checkpoints within an epoch.
            stop: cancellation token of the run; by default one that nobody cancels.
        """
        self.folder = folder
        self.every_s = every_s
        self.stop = stop or CancellationToken()
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Return True if `every_s` seconds have passed since the last checkpoint."""
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint; if interrupted at any point, `load` returns the previous one.

        Raises:
            JobError: the disk is full or the folder is not writable. The previous checkpoint stays
                intact.
        """
        self._saved_at = time.monotonic()
        if self.folder is None:
            return
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_tensors(tensors, path)
            body = {"format": FORMAT, "file": path.name, "sha256": hash_file(path), "state": state}
            if (self.folder / NEWEST).exists():
                newest = (self.folder / NEWEST).read_text(encoding="utf-8")
                write_atomically(self.folder / PREVIOUS, newest, durable=True)
            content = json.dumps({"body": body, "sha256": _digest(body)})
            write_atomically(self.folder / NEWEST, content, durable=True)
            self._delete_unreferenced()
            log.debug("Checkpoint of %.1f MB in %s", path.stat().st_size / 1e6, self.folder)
        except OSError as error:
            path.unlink(missing_ok=True)
            fix = "The previous checkpoint is intact: free space, then resume with --resume."
            raise write_error(path, error, fix, JobError) from error

    def load(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; None without a folder or a checkpoint.

        Logs a warning for each damaged one.

        Raises:
            JobError: checkpoints exist, but all of them are damaged.
            UserError: the checkpoint has the format of another version of eyevsai.
        """
        if self.folder is None:
            return None
        paths = [path for path in (self.folder / NEWEST, self.folder / PREVIOUS) if path.exists()]
        for path in paths:
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s is damaged (%s); trying the previous checkpoint.", path, error)
        if paths:
            raise JobError(
                f"All checkpoints in {self.folder} are damaged. Start the run again without "
                "--resume."
            )
        return None

    def _delete_unreferenced(self) -> None:
        """Delete tensor files that neither the newest nor the previous checkpoint references."""
        assert self.folder is not None
        references = set()
        for path in (self.folder / NEWEST, self.folder / PREVIOUS):
            try:
                references.add(json.loads(path.read_text(encoding="utf-8"))["body"]["file"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # missing, or damaged: `load` reports that
        for path in self.folder.glob("*.safetensors"):
            if path.name not in references:
                # on Windows a loaded checkpoint is mapped into memory, and stays until a later call
                with suppress(PermissionError):
                    path.unlink(missing_ok=True)


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    with open(path, "wb") as stream:
        stream.write(
            save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
        )
        stream.flush()
        os.fsync(stream.fileno())


def _read(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    content = json.loads(path.read_text(encoding="utf-8"))
    body = content["body"]
    if _digest(body) != content["sha256"]:
        raise ValueError("its SHA-256 does not match")
    if body["format"] != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {body['format']}, but this version of eyevsai reads "
            f"format {FORMAT}. Start the run again without --resume, or resume it with the version "
            "that wrote the checkpoint."
        )
    tensors = path.parent / Path(body["file"]).name
    if hash_file(tensors) != body["sha256"]:
        raise ValueError(f"the SHA-256 of {tensors.name} does not match")
    return Checkpoint(load_file(tensors), body["state"])


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

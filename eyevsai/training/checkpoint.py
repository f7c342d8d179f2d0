"""Checkpoints: all that a training loop needs to go on, on disk before anybody is told of it.

A checkpoint is a uniquely named `.safetensors` file and then `checkpoint.json`, renamed last, which
names that file, its SHA-256 and its own. The one before stays as `checkpoint.previous.json`, so
that whatever is torn or damaged, an earlier one can be gone back to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
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
    """What a loop wrote down: tensors by name, and plain values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in a folder; without a folder nothing is kept."""

    def __init__(
        self,
        folder: Path | None = None,
        every_s: float = float("inf"),
        stop: CancellationToken | None = None,
    ) -> None:
        self.folder = folder
        self.every_s = every_s
        self.stop = stop or CancellationToken()
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the time has come to save in mid-epoch."""
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Writes a checkpoint. Until its last step the one before is what `load` finds.

        Raises:
            JobError: the disk is full or the folder cannot be written; the checkpoint before
                stands.
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
            self._delete_others()
            log.debug("Checkpoint of %.1f MB in %s", path.stat().st_size / 1e6, self.folder)
        except OSError as error:
            path.unlink(missing_ok=True)
            fix = "The checkpoint before it is whole: free space, then resume with --resume."
            raise write_error(path, error, fix, JobError) from error

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there is none at all.

        Raises:
            JobError: there are checkpoints and each of them is damaged.
            UserError: another version of eyevsai wrote the checkpoint.
        """
        if self.folder is None:
            return None
        there = [path for path in (self.folder / NEWEST, self.folder / PREVIOUS) if path.exists()]
        for path in there:
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s is damaged (%s): going back to the checkpoint before.", path, error)
        if there:
            raise JobError(
                f"No checkpoint in {self.folder} is whole. Start the run again without --resume."
            )
        return None

    def _delete_others(self) -> None:
        assert self.folder is not None
        kept = set()
        for path in (self.folder / NEWEST, self.folder / PREVIOUS):
            try:
                kept.add(json.loads(path.read_text(encoding="utf-8"))["body"]["file"])
            except (OSError, ValueError, KeyError, TypeError):
                # none yet, or damaged: `load` says so
                continue
        for path in self.folder.glob("*.safetensors"):
            if path.name not in kept:
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
        raise ValueError("its SHA-256 differs")
    if body["format"] != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {body['format']}, and this version of eyevsai reads "
            f"format {FORMAT}. Start the run again without --resume, or resume it with the version "
            "that wrote it."
        )
    tensors = path.parent / Path(body["file"]).name
    if hash_file(tensors) != body["sha256"]:
        raise ValueError(f"the SHA-256 of {tensors.name} differs")
    return Checkpoint(load_file(tensors), body["state"])


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

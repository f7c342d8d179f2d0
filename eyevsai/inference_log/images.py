"""A sample of the images that were classified, as files by their digest, for labelling.

Off by default: images can be personal data. Files and folders are readable for their owner only.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, func, select

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.paths import expand
from eyevsai.inference_log.database import Database, insert_ignoring
from eyevsai.inference_log.label_store import CHUNK, chunks
from eyevsai.inference_log.records import OK, RANDOM, UNCERTAIN, Answer, KeptImage
from eyevsai.inference_log.schema import images

_FOLDER_MODE = 0o700
_TRIM = 100  # images that are deleted at once


class ImageFolder:
    """Folder of image files, named by their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: bytes) -> Path:
        """Return the path of an image, which may not exist."""
        name = sha256.hex()
        return self.folder / name[:2] / name

    def write(self, kept: KeptImage) -> None:
        """Write the file of an image, unless it exists.

        Raises:
            OSError: the file cannot be written.
        """
        path = self.path(kept.sha256)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
        number, name = tempfile.mkstemp(dir=path.parent)  # readable for its owner only
        try:
            with open(number, "wb") as stream:
                stream.write(kept.data)
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise

    def delete(self, digests: Iterable[bytes]) -> None:
        """Delete files; those that do not exist are skipped.

        Raises:
            OSError: a file cannot be deleted.
        """
        for digest in digests:
            self.path(digest).unlink(missing_ok=True)


class ImageSampler:
    """Selection of images: a share of all, and besides, all with an unsure answer.

    The random ones are marked, because only they represent all images.
    """

    def __init__(self, folder: ImageFolder, share: float, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._share = share
        self._random = random.Random()

    def select(self, answer: Answer, data: bytes) -> KeptImage | None:
        """Return the image of an answer if it is part of the sample, or else None."""
        if answer.status != OK or answer.shadow_of is not None:
            return None
        if self._random.random() < self._share:
            reason = RANDOM
        elif answer.is_unsure:
            reason = UNCERTAIN
        else:
            return None
        digest = answer.sha256 or hashlib.sha256(data).digest()
        return KeptImage(digest, answer.id, reason, data)


def find_folder(database: Database, folder: str | None) -> ImageFolder | None:
    """Return the folder of a log's images; None for PostgreSQL without a given folder."""
    if folder is not None:
        return ImageFolder(expand(folder).absolute())
    if database.path is None:
        return None
    return ImageFolder(database.path.with_name(f"{database.path.name}.images"))


def make_sampler(
    database: Database, folder: str | None, share: float, max_bytes: int
) -> ImageSampler | None:
    """Return the sampler of a server; None if no images are stored.

    Args:
        database: the log.
        folder: folder of the images, by default beside a SQLite log.
        share: share of random images; with 0, none are stored.
        max_bytes: limit of all files.

    Raises:
        UserError: the folder is missing or cannot be created.
    """
    if share == 0:
        return None
    images_folder = find_folder(database, folder)
    if images_folder is None:
        raise UserError(
            "--keep-images needs --images-dir with a log in PostgreSQL: a folder that all servers "
            "share. Set it, or omit --keep-images."
        )
    try:
        images_folder.folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    except OSError as error:
        raise write_error(images_folder.folder, error, "Choose another --images-dir.") from error
    return ImageSampler(images_folder, share, max_bytes)


def insert_images(connection: Connection, records: Iterable[KeptImage]) -> None:
    """Store the rows of images whose files are written."""
    rows = [
        {
            "sha256": each.sha256,
            "answer_id": each.answer_id,
            "reason": each.reason,
            "size": len(each.data),
        }
        for each in records
    ]
    if rows:
        connection.execute(insert_ignoring(connection, images), rows)


def remove_images(connection: Connection, where: ColumnElement[bool]) -> list[bytes]:
    """Delete rows of images; return the digests that no other row has.

    Their files are to be deleted after the commit.
    """
    removed = set(connection.scalars(select(images.c.sha256).where(where)))
    if not removed:
        return []
    connection.execute(images.delete().where(where))
    kept = set[bytes]()
    for part in chunks(sorted(removed), CHUNK):
        kept.update(
            connection.scalars(select(images.c.sha256).where(images.c.sha256.in_(part)).distinct())
        )
    return sorted(removed - kept)


def trim_images(database: Database, folder: ImageFolder, max_bytes: int) -> int:
    """Delete the oldest images until all together have at most `max_bytes`; return their number.

    Raises:
        LogUnavailableError: the database is unreachable.
        OSError: a file cannot be deleted.
    """
    number = 0
    total = select(func.coalesce(func.sum(images.c.size), 0))
    while True:
        with database.reading() as connection:
            if int(connection.scalar(total) or 0) <= max_bytes:
                return number
        with database.writing() as connection:
            oldest = select(images.c.answer_id).order_by(images.c.seq).limit(_TRIM)
            ids = list(connection.scalars(oldest))
            digests = remove_images(connection, images.c.answer_id.in_(ids))
        folder.delete(digests)
        number += len(ids)

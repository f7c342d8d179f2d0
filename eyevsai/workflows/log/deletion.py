"""Workflows of `log prune` and `log forget`."""

from __future__ import annotations

from sqlalchemy import select

from eyevsai.core.errors import UserError
from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.images import find_folder, trim_images
from eyevsai.inference_log.retention import Deletion, Retention, forget, prune
from eyevsai.inference_log.schema import answers
from eyevsai.inference_log.secret import load_secret
from eyevsai.inference_log.settings import MEBIBYTE, ForgetSettings, PruneSettings
from eyevsai.inference_log.store import open_log


def prune_log(settings: PruneSettings) -> tuple[Deletion, int]:
    """Delete old answers and images; return numbers, and the size of the database in bytes.

    A server can write meanwhile.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the settings have no limit.
    """
    if settings.days is None and settings.size_mb is None and settings.images_mb is None:
        raise UserError("log prune needs a limit. Set --days, --size-mb or --images-mb.")
    store = open_log(settings)
    folder = find_folder(store, settings.images_dir)
    max_bytes = None if settings.size_mb is None else settings.size_mb * MEBIBYTE
    parts = list(prune(store, Retention(settings.days, max_bytes), folder))
    if settings.images_mb is not None and folder is not None:
        trim_images(store, folder, settings.images_mb * MEBIBYTE)
    size = store.file_bytes()
    store.close()
    return Deletion(sum(each.answers for each in parts), sum(each.labels for each in parts)), size


def forget_key(key: str, settings: ForgetSettings) -> Deletion:
    """Delete the answers of a client, with labels and images, for all models of the log.

    Args:
        key: key that the client sent.
        settings: the log and its secret, without which the key cannot be found.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the key is empty, or there is no secret.
    """
    if not key:
        raise UserError("The key is empty. Set --key to the key that the client sent.")
    store = open_log(settings)
    identities = Identities(load_secret(settings.log_secret_file, store.path))
    with store.reading() as connection:
        models = list(connection.scalars(select(answers.c.model).distinct()))
    hashes = [identities.hash_key(model, key) for model in models]
    deletion = forget(store, hashes, find_folder(store, settings.images_dir))
    store.close()
    return deletion

"""Validation of names that users enter, with suggestions, and names of registered models."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from eyevsai.core.errors import UserError

# regex of a character that eyevsai uses in the name of a registered model; MLflow allows others
REGISTERED = "[A-Za-z0-9_.-]"
MIN_SIMILARITY = 0.65  # of names to suggest; below it, two words only share some letters
FILE_NAME_LENGTH = 100  # of a file that is named after a registered model
NOT_ON_WINDOWS = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
# names of devices, also with a suffix, in any folder
DEVICE = re.compile(r"(?i:con|prn|aux|nul|conin\$|conout\$|com[1-9¹²³]|lpt[1-9¹²³]) *(\.|$)")


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that is most similar to `name`, or None if none is similar.

    Case does not count, nor do hyphens for underscores.
    """
    by_spelling = {_normalize(option): option for option in options}
    matches = get_close_matches(_normalize(name), by_spelling, n=1, cutoff=MIN_SIMILARITY)
    return by_spelling[matches[0]] if matches else None


def _normalize(name: str) -> str:
    return name.casefold().replace("-", "_")


def choose(kind: str, name: str, options: Iterable[str]) -> str:
    """Return `name` if it is one of the options.

    Args:
        kind: noun for the error message, for example `dataset`.
        name: name to validate.
        options: valid names.

    Raises:
        UserError: `name` is not one of the options; the message suggests the nearest one and lists
            all.
    """
    options = list(options)
    if name in options:
        return name
    guess = nearest(name, options)
    hint = f" Did you mean {guess!r}?" if guess else ""
    raise UserError(f"There is no {kind} {name!r}.{hint} Known: {', '.join(options) or 'none'}.")


def choose_listed(kind: str, text: str, options: Iterable[str]) -> list[str]:
    """Return the names in a comma-separated list, without duplicates.

    Args:
        kind: noun for the error message, for example `dataset`.
        text: comma-separated names; empty parts are ignored.
        options: valid names.

    Raises:
        UserError: a name is not one of the options, or the list is empty.
    """
    options = list(options)
    names = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise UserError(f"{text!r} contains no {kind}. Known: {', '.join(options) or 'none'}.")
    return [choose(kind, name, options) for name in names]


@dataclass(frozen=True)
class ModelName:
    """The dataset, family and variation that a registered model is named after."""

    dataset: str
    model: str
    variation: str

    def __str__(self) -> str:
        return f"{self.dataset}-{self.model}-{self.variation}"

    @property
    def registered(self) -> str:
        """Name of the registered model, for example `pets-deep_v2-resnet`."""
        return registered_name(str(self))


def registered_name(name: str) -> str:
    """Return `name` as a valid name of a registered model: other characters become `_`."""
    return "".join(character if re.match(REGISTERED, character) else "_" for character in name)


def to_file_name(name: str) -> str:
    """Return a file name for a registered model, whose name may contain any character but / and :.

    A name that is short and valid on every file system is returned unchanged. Others get a digest,
    so that different names have different files, unless a file system ignores case.
    """
    plain = registered_name(name)[:FILE_NAME_LENGTH]
    if plain == name and not name.startswith(".") and is_valid_on_windows(name):
        return name
    stem = f"_{plain}" if DEVICE.match(plain) else plain.lstrip(".")
    return f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_valid_on_windows(name: str) -> bool:
    """Return True if a file on Windows can have this name: `CON.txt`, `a:b` and `a.` cannot."""
    return not (NOT_ON_WINDOWS.search(name) or name.endswith((".", " ")) or DEVICE.match(name))

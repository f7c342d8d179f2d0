"""Names that people type: the nearest right one, and the form that a registered model may have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from eyevsai.core.errors import UserError

REGISTERED = "[A-Za-z0-9_.-]"  # the characters that the name of a registered model is made of


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most resembles, or None when none is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """`name` itself when it is known.

    Raises:
        UserError: naming the nearest known name and all of them.
    """
    known = list(known)
    if name in known:
        return name
    guess = nearest(name, known)
    hint = f" Did you mean {guess!r}?" if guess else ""
    raise UserError(f"There is no {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}.")


def choose_listed(kind: str, text: str, known: Iterable[str]) -> list[str]:
    """The names in a list with commas, each once.

    Raises:
        UserError: one is not known, naming the nearest, or none is given.
    """
    known = list(known)
    named = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    if not named:
        raise UserError(f"{text!r} names no {kind}. Known: {', '.join(known) or 'none'}.")
    return [choose(kind, name, known) for name in named]


@dataclass(frozen=True)
class ModelName:
    """What a registered model is named after."""

    dataset: str
    model: str
    variation: str

    def __str__(self) -> str:
        return f"{self.dataset}-{self.model}-{self.variation}"

    @property
    def registered(self) -> str:
        """`pets-deep_v2-resnet`."""
        return registered_name(str(self))


def registered_name(name: str) -> str:
    """What a registered model may be called that is named after `name`: other characters become
    `_`.
    """
    return "".join(character if re.match(REGISTERED, character) else "_" for character in name)

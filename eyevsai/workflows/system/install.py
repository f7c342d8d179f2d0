"""install: what a family or an extra needs, and the pip command that brings it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.extras import install_command, is_installed, read_extras
from eyevsai.core.names import choose
from eyevsai.models.factory import FAMILIES, get_family


@dataclass(frozen=True)
class Extra:
    """An extra of this project."""

    name: str
    requirements: tuple[str, ...]
    is_installed: bool


def list_extras() -> list[Extra]:
    """All extras, in the order in which the project declares them."""
    return [Extra(name, pins, all(map(is_installed, pins))) for name, pins in read_extras().items()]


def choose_extras(names: Sequence[str]) -> tuple[list[Extra], list[str]]:
    """The extras that are named, and for each family that is named what it needs, as a sentence.

    Raises:
        UserError: there is no such family or extra; the message names the nearest.
    """
    extras = {extra.name: extra for extra in list_extras()}
    named = dict.fromkeys(choose("family or extra", name, [*FAMILIES, *extras]) for name in names)
    return [extras[name] for name in named if name in extras], [
        _describe(name) for name in named if name in FAMILIES
    ]


def pip_command(extras: Sequence[Extra]) -> list[str]:
    """What installs them into the Python that runs this, word by word.

    Raises:
        UserError: this Python has neither pip nor uv.
    """
    pins = dict.fromkeys(pin for extra in extras for pin in extra.requirements)
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", *pins]
    if (uv := shutil.which("uv")) is not None:  # whose environments have no pip
        return [uv, "pip", "install", "--python", sys.executable, *pins]
    raise UserError(f"{sys.executable} has no pip. Get it with: {sys.executable} -m ensurepip")


def install(extras: Sequence[Extra]) -> None:
    """Runs that command, which says itself what it does.

    Raises:
        JobError: it failed, or what it installed is not found.
    """
    code = subprocess.run(pip_command(extras)).returncode
    importlib.invalidate_caches()
    lacking = [pin for extra in extras for pin in extra.requirements if not is_installed(pin)]
    if code or lacking:
        names = ", ".join(extra.name for extra in extras)
        raise JobError(
            f"{names} could not be installed: pip ended with exit code {code}; what it said "
            f"stands above. Lacking: {', '.join(lacking) or 'nothing'}."
        )


def _describe(family: str) -> str:
    wishes = [
        f"{gain}: {install_command(extra)}" for extra, gain in get_family(family).extras.items()
    ]
    return " ".join([f"{family} needs no extra.", *wishes])

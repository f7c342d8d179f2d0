"""Workflow of `install`: requirements of families and extras, and their installation."""

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
from eyevsai.core.installer import run_pip
from eyevsai.core.names import choose
from eyevsai.models.factory import FAMILIES, get_family


@dataclass(frozen=True)
class Extra:
    """Extra of this project, with its requirements for pip."""

    name: str
    requirements: tuple[str, ...]
    is_installed: bool


def list_extras() -> list[Extra]:
    """Return all extras, in the order in which the project declares them."""
    return [Extra(name, pins, all(map(is_installed, pins))) for name, pins in read_extras().items()]


def choose_extras(names: Sequence[str]) -> tuple[list[Extra], list[str]]:
    """Return the extras among `names`, and a description of the requirements of each family.

    Raises:
        UserError: there is no such family or extra; the message suggests the nearest one.
    """
    extras = {extra.name: extra for extra in list_extras()}
    chosen = dict.fromkeys(choose("family or extra", name, [*FAMILIES, *extras]) for name in names)
    return [extras[name] for name in chosen if name in extras], [
        _describe(name) for name in chosen if name in FAMILIES
    ]


def pip_command(extras: Sequence[Extra]) -> list[str]:
    """Return the command that installs extras into the environment of this Python.

    It uses pip, or uv if pip is not installed.

    Raises:
        UserError: neither pip nor uv is installed.
    """
    pins = _list_pins(extras)
    if _has_pip():
        return [sys.executable, "-m", "pip", "install", *pins]
    if (uv := shutil.which("uv")) is not None:  # environments that uv creates have no pip
        return [uv, "pip", "install", "--python", sys.executable, *pins]
    raise UserError(f"{sys.executable} has no pip. Install it with: {sys.executable} -m ensurepip")


def install(extras: Sequence[Extra]) -> None:
    """Install extras as `pip_command` does; print the progress.

    Raises:
        UserError: neither pip nor uv is installed.
        JobError: the command failed, or requirements are still missing.
    """
    if _has_pip():
        code = run_pip(_list_pins(extras))
    else:
        code = subprocess.run(pip_command(extras)).returncode
    importlib.invalidate_caches()
    missing = [pin for extra in extras for pin in extra.requirements if not is_installed(pin)]
    if code or missing:
        names = ", ".join(extra.name for extra in extras)
        raise JobError(
            f"{names} could not be installed: pip exited with code {code}; see its output above. "
            f"Missing: {', '.join(missing) or 'nothing'}."
        )


def _list_pins(extras: Sequence[Extra]) -> list[str]:
    return list(dict.fromkeys(pin for extra in extras for pin in extra.requirements))


def _has_pip() -> bool:
    return find_spec("pip") is not None


def _describe(family: str) -> str:
    """Return a description of the optional extras of a family."""
    options = [
        f"{benefit}: {install_command(extra)}"
        for extra, benefit in get_family(family).extras.items()
    ]
    return " ".join([f"{family} needs no extra.", *options])

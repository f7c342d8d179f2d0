"""Extras: packages that some commands need and the base install lacks, as the project's own
metadata lists them.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from eyevsai.core.errors import UserError

PROJECT = "eyevsai"
CHECKOUT = Path(__file__).parents[2] / "pyproject.toml"


def missing_extra(what: str, extra: str) -> UserError:
    """What every command says that needs an extra which is not installed; `what` begins the
    sentence.
    """
    return UserError(
        f"{what} needs the extra {extra}, which is not installed. Get it with: "
        f"{install_command(extra)}"
    )


def install_command(extra: str) -> str:
    """What a person types to get an extra."""
    return f"eyevsai install {extra} --run"


def read_extras() -> dict[str, tuple[str, ...]]:
    """The requirements of each extra, as pip takes them.

    In a checkout pyproject.toml is asked: the metadata of an editable install are of the day when
    it was installed.
    """
    if CHECKOUT.is_file():
        project = tomllib.loads(CHECKOUT.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == PROJECT:
            return {name: tuple(pins) for name, pins in project["optional-dependencies"].items()}
    about = metadata.metadata(PROJECT)
    return {name: _requirements_of(name) for name in about.get_all("Provides-Extra") or ()}


def is_installed(requirement: str) -> bool:
    """Whether this Python has what a requirement asks for, its own extras included."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return True  # it is not for this machine
    try:
        found = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError:
        return False
    return wanted.specifier.contains(found.version, prereleases=True) and all(
        is_installed(each)
        for extra in wanted.extras
        for each in _requirements_of(extra, wanted.name)
    )


def _requirements_of(extra: str, project: str = PROJECT) -> tuple[str, ...]:
    """What an installed project requires for one of its extras, and not without it."""
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, metadata.requires(project) or ()):
        marker = requirement.marker
        if (
            marker is not None
            and marker.evaluate({"extra": extra})
            and not marker.evaluate({"extra": ""})
        ):
            requirement.marker = None
            found.append(str(requirement))
    return tuple(found)

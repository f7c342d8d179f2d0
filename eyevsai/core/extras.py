"""Extras: optional dependencies of some commands, read from the project's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError

PROJECT = "eyevsai"
CHECKOUT = Path(__file__).parents[2] / "pyproject.toml"


def missing_extra(feature: str, extra: str) -> UserError:
    """Return the error for a feature whose extra is not installed.

    `feature` is the subject of the message: an option, for example `--prune`, or a noun phrase.
    """
    return UserError(
        f"{feature} needs the extra {extra}, which is not installed. Install it with: "
        f"{install_command(extra)}"
    )


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"eyevsai install {extra} --run"


def read_extras() -> dict[str, tuple[str, ...]]:
    """Return the requirements of each extra, as requirement strings for pip.

    In a checkout they are read from pyproject.toml, because the metadata of an editable install are
    not updated after the installation; otherwise from the metadata of the installed package.
    """
    if (project := read_pyproject()) is not None:
        extras = project["optional-dependencies"]
        return {name: tuple(_drop_markers(pins)) for name, pins in extras.items()}
    from importlib import metadata

    about = metadata.metadata(PROJECT)
    return {name: _requirements_of(name) for name in about.get_all("Provides-Extra") or ()}


def _drop_markers(requirements: Iterable[str]) -> Iterator[str]:
    """Yield the requirements that apply to this machine, without their markers."""
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None:
            yield text
        elif requirement.marker.evaluate():
            requirement.marker = None
            yield str(requirement)


def read_pyproject() -> dict[str, Any] | None:
    """Return the table `project` of the checkout's pyproject.toml; None outside of a checkout."""
    if not CHECKOUT.is_file():
        return None
    import tomllib

    project = tomllib.loads(CHECKOUT.read_text(encoding="utf-8")).get("project", {})
    return project if project.get("name") == PROJECT else None


def read_license_files() -> dict[str, bytes]:
    """Return the contents of eyevsai's licence files, in a checkout or an installation.

    Their names are paths relative to the project's root, as in the metadata of wheels.
    """
    if (project := read_pyproject()) is not None:
        names = project.get("license-files", ())
        paths = {name: CHECKOUT.parent / name for name in names}
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    from importlib import metadata

    distribution = metadata.distribution(PROJECT)
    names = distribution.metadata.get_all("License-File") or ()
    texts = {name: distribution.read_text(f"licenses/{name}") for name in names}
    return {name: text.encode() for name, text in texts.items() if text}


def is_installed(requirement: str) -> bool:
    """Return True if a requirement is met by the installed packages, including its own extras.

    A requirement whose marker excludes this environment counts as met.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    if parsed.marker is not None and not parsed.marker.evaluate():
        return True
    try:
        distribution = metadata.distribution(parsed.name)
    except metadata.PackageNotFoundError:
        return False
    return parsed.specifier.contains(distribution.version, prereleases=True) and all(
        is_installed(each)
        for extra in parsed.extras
        for each in _requirements_of(extra, parsed.name)
    )


def _requirements_of(extra: str, project: str = PROJECT) -> tuple[str, ...]:
    """Return the requirements of an installed project that apply only with an extra."""
    from importlib import metadata

    from packaging.requirements import Requirement

    requirements = []
    for requirement in map(Requirement, metadata.requires(project) or ()):
        marker = requirement.marker
        if (
            marker is not None
            and marker.evaluate({"extra": extra})
            and not marker.evaluate({"extra": ""})
        ):
            requirement.marker = None
            requirements.append(str(requirement))
    return tuple(requirements)

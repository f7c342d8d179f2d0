"""Wheel of the running eyevsai, which a version carries so that it can be installed elsewhere.

The wheel is packed from the files of the imported package, in a checkout as in an installation. Its
bytes depend only on these files and on the project's requirements: entries are sorted, uncompressed
(compressors differ between builds of zlib) and without times. The local part of its version is
their digest: pip, uv and MLflow's environments distinguish different code, and no public index can
offer another package for it, because these accept no local versions.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from eyevsai.core.extras import PROJECT, read_license_files, read_pyproject
from eyevsai.core.version import VERSION

log = logging.getLogger("eyevsai")

PACKAGE = Path(__file__).parents[1]  # folder of the imported package
FOLDER = "wheels"  # in a model directory
TAG = "py3-none-any"
EARLIEST = (1980, 1, 1, 0, 0, 0)  # first time that a zip archive can store
FILE_MODE, UNIX = 0o100644 << 16, 3  # attributes of an entry, and the system that defines them


@dataclass(frozen=True)
class Project:
    """Metadata of eyevsai, the same from a checkout and from an installation.

    Attributes:
        summary: one line of text.
        python: allowed versions of Python.
        requirements: all requirements, sorted; those of extras have the marker `extra`.
        extras: names of the extras, sorted.
        scripts: functions of the commands by name.
        license: SPDX expression; empty if none is declared.
        license_files: contents of the licence files by path; a copy of eyevsai must have them.
    """

    summary: str
    python: str
    requirements: tuple[str, ...]
    extras: tuple[str, ...]
    scripts: Mapping[str, str]
    license: str
    license_files: Mapping[str, bytes]


def read_project() -> Project | None:
    """Return the metadata from the checkout's pyproject.toml, or else those of the installation.

    pyproject.toml comes first: an editable installation does not update its metadata, and
    `mlflow run` does not install eyevsai. None if there is neither.
    """
    if (table := read_pyproject()) is not None:
        extras = table.get("optional-dependencies", {})
        requirements = [_normalize(text) for text in table["dependencies"]]
        requirements += [_normalize(text, extra) for extra in extras for text in extras[extra]]
        return _make_project(
            table["description"],
            table["requires-python"],
            requirements,
            extras,
            table["scripts"],
            license_expression=table.get("license"),
        )
    try:
        distribution = metadata.distribution(PROJECT)
    except metadata.PackageNotFoundError:
        return None
    about: Any = distribution.metadata  # a mapping whose stub has no __getitem__ for missing keys
    return _make_project(
        about["Summary"],
        about["Requires-Python"],
        map(_normalize, distribution.requires or ()),
        about.get_all("Provides-Extra") or (),
        {
            each.name: each.value
            for each in distribution.entry_points.select(group="console_scripts")
        },
        license_expression=about.get("License-Expression"),
    )


def required_packages(project: Project) -> list[str]:
    """Return the names of the packages that eyevsai needs without extras in this environment."""
    from packaging.requirements import Requirement

    return [
        requirement.name
        for requirement in map(Requirement, project.requirements)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def pack_wheel() -> dict[str, bytes]:
    """Return the wheel and a requirements file that installs it, by paths in a model directory.

    If nothing states the requirements of the package, log a warning and return an empty dictionary.
    """
    project = read_project()
    if project is None:
        log.warning(
            "The model is stored without the wheel of eyevsai, because eyevsai is not installed "
            "and has no pyproject.toml: it loads only where eyevsai is installed."
        )
        return {}
    package = _read_package()
    digest = _hash(package | _describe(project, VERSION))
    version = f"{VERSION}+c{digest[:12]}"  # a letter: PEP 440 strips zeros from numbers
    # pip and uv resolve --find-links relative to the file that contains it. The path of a wheel
    # would be relative to pip's working directory, which MLflow's images do not set to the model's.
    requirements = f"--find-links .\n{PROJECT}=={version}\n"
    return {
        f"{FOLDER}/{PROJECT}-{version}-{TAG}.whl": _zip(package, _describe(project, version)),
        f"{FOLDER}/{PROJECT}-{version}.txt": requirements.encode(),
    }


def _zip(package: Mapping[str, bytes], about: Mapping[str, bytes]) -> bytes:
    """Return a wheel of the files of the package and of the folder `.dist-info`, with a RECORD."""
    entries = {path: package[path] for path in sorted(package)} | dict(about)
    lines = [
        f"{path},sha256={_record_hash(content)},{len(content)}\n"
        for path, content in entries.items()
    ]
    record = f"{next(iter(about)).partition('/')[0]}/RECORD"
    entries[record] = "".join([*lines, f"{record},,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in entries.items():
            info = zipfile.ZipInfo(path, EARLIEST)
            info.external_attr, info.create_system = FILE_MODE, UNIX
            archive.writestr(info, content)
    return buffer.getvalue()


def _read_package() -> dict[str, bytes]:
    """Return the contents of the package's files, without bytecode, hidden files and backups."""
    return {
        f"{PROJECT}/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.is_file()
        and path.suffix not in (".pyc", ".pyo")
        and not path.name.endswith("~")
        and not any(part.startswith(".") for part in path.relative_to(PACKAGE).parts)
    }


def _describe(project: Project, version: str) -> dict[str, bytes]:
    """Return the files of the folder `.dist-info` by their paths in the wheel, without RECORD."""
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {PROJECT}",
        f"Version: {version}",
        f"Summary: {project.summary}",
        f"Requires-Python: {project.python}",
        *(f"Provides-Extra: {extra}" for extra in project.extras),
        *(f"Requires-Dist: {requirement}" for requirement in project.requirements),
        *([f"License-Expression: {project.license}"] if project.license else []),
        *(f"License-File: {name}" for name in project.license_files),
    ]
    scripts = [f"{name} = {project.scripts[name]}" for name in sorted(project.scripts)]
    wheel = ["Wheel-Version: 1.0", f"Generator: {PROJECT}", "Root-Is-Purelib: true", f"Tag: {TAG}"]
    texts = {"METADATA": lines, "WHEEL": wheel, "entry_points.txt": ["[console_scripts]", *scripts]}
    folder = f"{PROJECT}-{version}.dist-info"
    return {
        **{f"{folder}/{name}": ("\n".join(text) + "\n").encode() for name, text in texts.items()},
        **{f"{folder}/licenses/{name}": text for name, text in project.license_files.items()},
    }


def _hash(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path in sorted(contents):
        digest.update(f"{path}\0{hashlib.sha256(contents[path]).hexdigest()}\n".encode())
    return digest.hexdigest()


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _make_project(
    summary: str,
    python: str,
    requirements: Iterable[str],
    extras: Iterable[str],
    scripts: Mapping[str, str],
    *,
    license_expression: str | None,
) -> Project:
    from packaging.specifiers import SpecifierSet

    return Project(
        summary,
        str(SpecifierSet(python)),
        tuple(sorted(requirements)),
        tuple(sorted(extras)),
        scripts,
        license_expression or "",
        read_license_files(),
    )


def _normalize(text: str, extra: str | None = None) -> str:
    """Return a requirement in the spelling of `packaging`, with the marker of an extra if given."""
    from packaging.markers import Marker
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    if extra is not None:
        marker = f'extra == "{extra}"'
        requirement.marker = Marker(
            f"({requirement.marker}) and {marker}" if requirement.marker else marker
        )
    return str(requirement)

"""The image files of a dataset, sorted, with the class and, where given, the split and the group of each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from eyevsai.data.catalogue import Source
from eyevsai.data.files import is_image, walk, why_no_image
from eyevsai.data.folders import Unused, read_layout, split_of
from eyevsai.data.labels import Table, read_labels
from eyevsai.errors import UserError


@dataclass(frozen=True)
class File:
    """One image file. `split` is None where the dataset's layout gives none, `group` where it belongs to none."""

    path: Path
    name: str  # part/relative path, with forward slashes: stable between machines
    label: str
    split: str | None
    size_bytes: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    group: str | None = None


@dataclass(frozen=True)
class Index:
    """All image files of a dataset, sorted by name, and all classes, those without a file too."""

    files: list[File]
    classes: list[str]
    unused: list[Unused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on what was read otherwise than it lies there


def index_files(source: Source) -> Index:
    """The files of all parts of `source`; classes of the same name in two parts are kept apart.

    Raises:
        UserError: a folder that cannot be read, no known layout, or a table that does not fit.
    """
    if source.labels is not None:
        return _index_table(source)
    layouts = {part: read_layout(folder) for part, folder in source.parts.items()}
    owners: dict[str, set[str]] = {}
    for part, layout in layouts.items():
        for each in layout.classes:
            owners.setdefault(each.label, set()).add(part)
    group_of = _grouping(source.groups)
    files, classes = list[File](), set[str]()
    unused = [each for layout in layouts.values() for each in layout.unused]
    notes = [note for layout in layouts.values() for note in layout.notes]
    for part, layout in layouts.items():
        spelt: dict[tuple[str | None, str], list[str]] = {}
        for each in layout.classes:
            full = f"{each.label} ({part})" if len(owners[each.label]) > 1 else each.label
            classes.add(full)
            spelt.setdefault((each.split, full), []).append(each.path.name)
            for path, status in walk(each.path, source.parts[part]):
                if not is_image(path):
                    unused.append(Unused(path, why_no_image(path)))
                    continue
                relative = path.relative_to(source.parts[part]).as_posix()
                file = _file(path, f"{part}/{relative}", full, each.split, status)
                files.append(replace(file, group=group_of(relative)))
        notes += [f"the folders {', '.join(map(repr, names))} are one class, {label!r}"
                  for (_, label), names in spelt.items() if len(names) > 1]  # fmt: skip
    _check_groups(source.groups, files)
    return Index(sorted(files, key=lambda file: file.name), sorted(classes), unused, notes)


def _index_table(source: Source) -> Index:
    """The files that a table names, wherever they lie in the folder."""
    ((part, folder),) = source.parts.items()
    table_path = _find_table(Path(source.labels or "").expanduser(), folder)
    there = {path.relative_to(folder).as_posix(): (path, status) for path, status in walk(folder)}
    images = {name: found for name, found in there.items() if is_image(found[0])}
    column = source.groups
    table = read_labels(table_path, sorted(images), column, folder)
    in_table = _is_column(column, table)
    group_of = (lambda name: table.rows[name].group) if in_table else _grouping(column)
    files = list[File]()
    for name, row in sorted(table.rows.items()):
        path, status = images[name]
        split = row.split or (split_of(name.partition("/")[0]) if "/" in name else None)
        files.append(replace(_file(path, f"{part}/{name}", row.label, split, status), group=group_of(name)))
    _check_groups(None if in_table else column, files)
    unused = [Unused(images[name][0], f"without a row in {table_path.name}")
              for name in images if name not in table.rows]  # fmt: skip
    classes = sorted({row.label for row in table.rows.values()})
    spelt: dict[str, str] = {}
    for label in classes:
        if (other := spelt.setdefault(label.casefold(), label)) != label:
            raise UserError(f"{table_path} has the classes {other} and {label}, which differ in capitals only. Write "
                            "them alike.")  # fmt: skip
    return Index(sorted(files, key=lambda file: file.name), classes, unused, list(table.notes))


def _find_table(given: Path, folder: Path) -> Path:
    """The table at a path that is relative to the current folder, or else to that of the dataset."""
    for path in (given, folder / given):
        if path.is_file():
            return path
    raise UserError(f"There is no table {given}, here or in {folder}: --labels takes a CSV file.")


def _is_column(groups: str | None, table: Table) -> bool:
    return groups is not None and groups.strip().casefold() in map(str.casefold, table.columns)


def _file(path: Path, name: str, label: str, split: str | None, status: os.stat_result) -> File:
    size, times = status.st_size, (status.st_mtime_ns, status.st_ctime_ns)
    return File(path, name, label, split, size, *times, status.st_ino)


def _grouping(groups: str | None) -> Callable[[str], str | None]:
    """The function from the relative path of a file to its group."""
    if groups is None:
        return lambda _: None
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise UserError(f"--groups {groups} is no regular expression: {error}.") from error

    def group_of(name: str) -> str | None:
        found = pattern.search(name)
        return None if found is None else found[1 if pattern.groups else 0]

    return group_of


def _check_groups(groups: str | None, files: list[File]) -> None:
    if groups is not None and files and not any(file.group for file in files):
        raise UserError(f"--groups {groups} matches no file, such as {files[0].name.partition('/')[2]}. It is a "
                        "regular expression over paths, or a column of --labels.")  # fmt: skip

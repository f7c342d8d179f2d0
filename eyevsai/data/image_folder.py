"""Index of a dataset: its sorted image files with class, split and group."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.files import is_image, walk
from eyevsai.data.folder_layout import Layout, check_distinct_names, parse_split, read_layout
from eyevsai.data.label_table import LabelTable, read_labels
from eyevsai.data.unused_files import UnusedFile, reason_not_an_image, unused_pages


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    `split` is None if the dataset provides none for it. `group` is None if it belongs to no group.
    """

    path: Path
    name: str  # part/relative path, with forward slashes: equal on all hosts
    label: str
    split: str | None
    size_bytes: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    group: str | None = None


@dataclass(frozen=True)
class FolderIndex:
    """All image files of a dataset, sorted by name, and all classes, including empty ones."""

    files: list[ImageFile]
    classes: list[str]
    unused: list[UnusedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # deviations from the folder structure


def index_dataset(source: DatasetFolder) -> FolderIndex:
    """Return the index of all parts of a dataset.

    A class name that occurs in several parts becomes one class for each: `cat (part)`.

    Raises:
        UserError: a folder cannot be read, its layout is unknown, the label table does not match
            the files, or --groups is invalid or matches no file.
    """
    if source.labels is not None:
        return _index_table(source)
    layouts = {part: read_layout(folder) for part, folder in source.parts.items()}
    owners: dict[str, set[str]] = {}
    for part, layout in layouts.items():
        for each in layout.classes:
            owners.setdefault(each.label, set()).add(part)
    shared = {label for label, parts in owners.items() if len(parts) > 1}
    indexes = [_index_part(source, part, layout, shared) for part, layout in layouts.items()]
    files = sorted((file for index in indexes for file in index.files), key=lambda file: file.name)
    _check_groups(source.groups, files)
    classes = sorted({label for index in indexes for label in index.classes})
    unused = [each for index in indexes for each in index.unused]
    return FolderIndex(files, classes, unused, [note for index in indexes for note in index.notes])


def _index_part(
    source: DatasetFolder, part: str, layout: Layout, shared: Collection[str]
) -> FolderIndex:
    """Return the index of one part. Its files are not sorted.

    Args:
        source: the dataset.
        part: name of the part.
        layout: layout of its folder.
        shared: class names that other parts have too; the part's name is appended to them.
    """
    root, group_of = source.parts[part], _compile_groups(source.groups)
    files, unused, pages = list[ImageFile](), list(layout.unused), list[Path]()
    folder_names: dict[tuple[str | None, str], list[str]] = {}
    for each in layout.classes:
        label = f"{each.label} ({part})" if each.label in shared else each.label
        folder_names.setdefault((each.split, label), []).append(each.path.name)
        for path, status in walk(each.path, root, pages):
            if not is_image(path):
                unused.append(reason_not_an_image(path))
                continue
            relative = path.relative_to(root).as_posix()
            file = _file(path, f"{part}/{relative}", label, each.split, status)
            files.append(replace(file, group=group_of(relative)))
    merged = [
        f"the folders {', '.join(map(repr, names))} are one class, {label!r}"
        for (_, label), names in folder_names.items()
        if len(names) > 1
    ]
    classes = sorted({label for _, label in folder_names})
    return FolderIndex(files, classes, [*unused, *unused_pages(pages)], [*layout.notes, *merged])


def _index_table(source: DatasetFolder) -> FolderIndex:
    """Return the index of the files in a label table, at any depth of the dataset's only part."""
    ((part, folder),) = source.parts.items()
    table_path = find_table(expand(source.labels or ""), folder)
    images, unused, pages = (
        dict[str, tuple[Path, os.stat_result]](),
        list[UnusedFile](),
        list[Path](),
    )
    for path, status in walk(folder, pages=pages):
        if is_image(path):
            images[path.relative_to(folder).as_posix()] = path, status
        elif path.resolve() != table_path.resolve():
            unused.append(reason_not_an_image(path))
    column = source.groups
    table = read_labels(table_path, sorted(images), column, folder)
    in_table = _is_column(column, table)
    group_of = (lambda name: table.rows[name].group) if in_table else _compile_groups(column)
    files = list[ImageFile]()
    for name, row in sorted(table.rows.items()):  # sorts files by name, as all have one part
        path, status = images[name]
        split = row.split or (parse_split(name.partition("/")[0]) if "/" in name else None)
        files.append(
            replace(_file(path, f"{part}/{name}", row.label, split, status), group=group_of(name))
        )
    _check_groups(None if in_table else column, files)
    unused += [
        UnusedFile(path, f"without a row in {table_path.name}")
        for name, (path, _) in images.items()
        if name not in table.rows
    ]
    classes = sorted({row.label for row in table.rows.values()})
    check_distinct_names(classes, table_path)
    return FolderIndex(files, classes, [*unused, *unused_pages(pages)], list(table.notes))


def find_table(table: Path, folder: Path) -> Path:
    """Return the path of a table relative to the current folder, or else to the dataset's folder.

    Raises:
        UserError: the file does not exist in either.
    """
    for path in (table, folder / table):
        if path.is_file():
            return path
    raise UserError(
        f"--labels {table} does not exist, neither in the current folder nor in {folder}. "
        "Give the path of a CSV file."
    )


def _is_column(groups: str | None, table: LabelTable) -> bool:
    """Return True if `groups` is the name of a column of the table, in any case."""
    return groups is not None and groups.strip().casefold() in map(str.casefold, table.columns)


def _file(
    path: Path, name: str, label: str, split: str | None, status: os.stat_result
) -> ImageFile:
    size, times = status.st_size, (status.st_mtime_ns, status.st_ctime_ns)
    return ImageFile(path, name, label, split, size, *times, status.st_ino)


def _compile_groups(groups: str | None) -> Callable[[str], str | None]:
    """Return a function from the relative path of a file to its group.

    The group is the first capture group of the regular expression, or the whole match if it has
    none; None if the path does not match.

    Raises:
        UserError: `groups` is not a regular expression.
    """
    if groups is None:
        return lambda _: None
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise UserError(f"--groups {groups} is not a valid regular expression: {error}.") from error

    def group_of(name: str) -> str | None:
        match = pattern.search(name)
        return None if match is None else match[1 if pattern.groups else 0]

    return group_of


def _check_groups(groups: str | None, files: list[ImageFile]) -> None:
    if groups is not None and files and not any(file.group for file in files):
        raise UserError(
            f"--groups {groups} matches no file: a path is {files[0].name.partition('/')[2]}, for "
            "example. Use a regular expression over paths, or a column of --labels."
        )

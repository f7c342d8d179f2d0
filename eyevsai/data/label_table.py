"""Label tables: the class, and if wished the split and the group, of each image in a CSV file."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eyevsai.core.errors import UserError, read_error
from eyevsai.data.folder_layout import SPLITS, normalize, split_of

PATHS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "imagepath",
    "image_name",
    "image_file",
    "img",
    "img_path",
    "id",
    "image_id",
    "imageid",
    "name",
    "photo",
    "x",
)
LABELS = (
    "label",
    "class",
    "class_name",
    "classname",
    "category",
    "target",
    "species",
    "breed",
    "labels",
    "y",
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold", "usage")
SHOWN = 3


@dataclass(frozen=True)
class Row:
    """What a table says of one image."""

    label: str
    split: str | None
    group: str | None


@dataclass(frozen=True)
class LabelTable:
    """The rows of a table by the path of their file, relative to the dataset; and what of it was
    not used.
    """

    rows: Mapping[str, Row]
    columns: Sequence[str]
    notes: Sequence[str]


def read_labels(
    path: Path, names: Sequence[str], group_column: str | None, folder: Path
) -> LabelTable:
    """Read a label table.

    Args:
        path: the CSV or TSV file; its first row names the columns.
        names: the paths of the dataset's files, relative to its folder, with forward slashes.
        group_column: the column that says which images belong together, if one does.
        folder: that of the dataset.

    Raises:
        UserError: the table cannot be read, lacks a column, leaves the folder, names one file twice
            with different labels, or names a file that cannot be told from another.
    """
    header, lines = _read(path)
    columns = {name.strip().casefold(): place for place, name in enumerate(header)}
    of_path, of_label = (_find(path, header, columns, wanted) for wanted in (PATHS, LABELS))
    of_split = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
    of_group = columns.get(group_column.strip().casefold()) if group_column is not None else None
    finder, rows = _FileMatcher(names, path, folder), dict[str, Row]()
    unlabeled, missing = list[str](), list[str]()
    for number, line in enumerate(lines, start=2):
        cells = [*line, *[""] * (len(header) - len(line))]
        cell, label = cells[of_path].strip(), normalize(cells[of_label])
        if not cell:
            continue
        split = None if of_split is None else _split(path, number, cells[of_split])
        found = finder.find(cell, split, number)
        if found is None:
            missing.append(cell)
        elif not label:
            unlabeled.append(cell)
        else:
            row = Row(
                label, split, cells[of_group].strip() or None if of_group is not None else None
            )
            if rows.setdefault(found, row) != row:
                raise UserError(
                    f"{path}, row {number}: {found} has two rows, {rows[found].label!r} and "
                    f"{label!r}. An image has one label and one split: remove one of the rows."
                )
    if not rows:
        example = f", such as {missing[0]!r}" if missing else ""
        takes = names[0] if names else "images/a.jpg"
        raise UserError(
            f"{path}: no row names an image of the dataset{example}. The column "
            f"{header[of_path]!r} takes paths relative to its folder, such as {takes!r}."
        )
    notes = [
        f"{len(cells)} {'row' if len(cells) == 1 else 'rows'} of {path.name} {what} "
        f"({_some(cells)})"
        for cells, what in ((missing, "without a file"), (unlabeled, "without a label"))
        if cells
    ]
    return LabelTable(rows, [name.strip() for name in header], notes)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise read_error(f"--labels {path}", error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"Cannot read --labels {path}: it is no UTF-8 text.") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [row for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"Cannot read --labels {path}: it is no CSV table ({error}).") from error
    if len(lines) < 2:
        raise UserError(
            f"--labels {path} has no rows. It takes a header with a column for paths and one "
            "for labels."
        )
    return lines[0], lines[1:]


def _find(
    path: Path, header: Sequence[str], columns: Mapping[str, int], wanted: Sequence[str]
) -> int:
    for name in wanted:
        if name in columns:
            return columns[name]
    what = "paths" if wanted is PATHS else "labels"
    raise UserError(
        f"--labels {path} has no column for {what}: it has {', '.join(header)}. Name one of them "
        f"{', '.join(wanted[:5])} or the like."
    )


def _split(path: Path, number: int, cell: str) -> str | None:
    name = cell.strip().casefold()
    if name and name not in SPLITS:
        raise UserError(
            f"{path}, row {number}: {cell.strip()!r} is no split. It takes train, valid or test."
        )
    return SPLITS[name] if name else None


class _FileMatcher:
    """Finds the file that a cell of a table means: by its path, its name, or either without the
    suffix.
    """

    def __init__(self, names: Sequence[str], table: Path, folder: Path) -> None:
        self.table, self.folder, self.by_key = table, folder.resolve(), dict[str, list[str]]()
        beside = table.resolve().parent
        self.base = (
            beside.relative_to(self.folder).as_posix() if beside.is_relative_to(self.folder) else ""
        )
        for name in names:
            pure = PurePosixPath(name)
            for key in {name, str(pure.with_suffix("")), pure.name, pure.stem}:
                self.by_key.setdefault(_nfc(key), []).append(name)
        self.names = {_nfc(name): name for name in names}

    def find(self, cell: str, split: str | None, number: int) -> str | None:
        """Return the path of the file that a cell means; None if there is none.

        Raises:
            UserError: it leaves the folder of the dataset, or may mean two files.
        """
        key = _nfc(os.path.normpath(cell.replace("\\", "/")))
        if Path(key).is_absolute() and Path(key).is_relative_to(self.folder):
            key = Path(key).relative_to(self.folder).as_posix()
        if key == ".." or key.startswith("../") or Path(key).is_absolute():
            raise UserError(
                f"{self.table}, row {number}: {cell!r} leaves the folder of the dataset. Write "
                "the path relative to that."
            )
        beside = os.path.normpath(os.path.join(self.base, key))
        for exact in (key, beside, key.removeprefix(f"{self.folder.name}/")):
            if exact in self.names:
                return self.names[exact]
        found = self.by_key.get(beside) or self.by_key.get(key, [])
        if len(found) > 1:
            found = list(self._nearest(found, split)) or found
        if len(found) > 1:
            raise UserError(
                f"{self.table}, row {number}: {cell!r} may be {found[0]} or {found[1]}. Write "
                "the path relative to the folder of the dataset."
            )
        return found[0] if found else None

    def _nearest(self, found: Sequence[str], split: str | None) -> Iterator[str]:
        """Yield the files in the folder of the row's split, or in the one that is named like the
        table.
        """
        wanted = split or split_of(self.table.stem)
        for name in found:
            folders = PurePosixPath(name).parts[:-1]
            if self.table.stem in folders or (wanted and wanted in map(split_of, folders)):
                yield name


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _some(cells: Sequence[str]) -> str:
    return ", ".join(cells[:SHOWN]) + (", ..." if len(cells) > SHOWN else "")

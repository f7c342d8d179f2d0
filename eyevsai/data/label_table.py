"""Label tables: CSV files with the class of each image, and optionally its split and group."""

from __future__ import annotations

import csv
import io
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eyevsai.core.errors import UserError, read_error
from eyevsai.data.folder_layout import SPLITS, normalize, parse_split
from eyevsai.data.label_columns import LABELS, PATHS, SPLIT_COLUMNS

SHOWN = 3  # cells in a message


@dataclass(frozen=True)
class Row:
    """Label, split and group of one image; the last two are None if the table has no value."""

    label: str
    split: str | None
    group: str | None


@dataclass(frozen=True)
class LabelTable:
    """Rows of a table by the path of their file, relative to the dataset's folder.

    `columns` has all column names; `notes` describe the rows that are not used.
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
        group_column: column of groups; None, or a name that the table lacks, for no groups.
        folder: the dataset's folder.

    Returns:
        The rows with a file and a label; the notes count others, except for rows without a path.

    Raises:
        UserError: the table cannot be read, lacks a column, has an unknown split, matches no file,
            or has a path that is outside the folder, ambiguous, or repeated with a different label,
            split or group.
    """
    header, lines = _read(path)
    columns = {name.strip().casefold(): index for index, name in enumerate(header)}
    of_path, of_label = (_find_column(path, header, columns, names) for names in (PATHS, LABELS))
    of_split = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
    of_group = columns.get(group_column.strip().casefold()) if group_column is not None else None
    matcher, rows = _FileMatcher(names, path, folder), dict[str, Row]()
    unlabeled, missing = list[str](), list[str]()
    for number, line in lines:
        cells = [*line, *[""] * (len(header) - len(line))]
        cell, label = cells[of_path].strip(), normalize(cells[of_label])
        if not cell:
            continue
        split = None if of_split is None else _parse_cell(path, number, cells[of_split])
        name = matcher.find(cell, split, number)
        if name is None:
            missing.append(cell)
        elif not label:
            unlabeled.append(cell)
        else:
            group = cells[of_group].strip() or None if of_group is not None else None
            row = Row(label, split, group)
            if rows.setdefault(name, row) != row:
                raise UserError(
                    f"{path}, row {number}: {name} has two rows, {_describe_row(rows[name])} and "
                    f"{_describe_row(row)}. Remove one: an image has one label, split and group."
                )
    if not rows:
        raise _no_match_error(path, header[of_path], names, missing)
    notes = _describe_unused_rows(path, missing, unlabeled)
    return LabelTable(rows, [name.strip() for name in header], notes)


def _no_match_error(
    path: Path, column: str, names: Sequence[str], missing: Sequence[str]
) -> UserError:
    unmatched = f"; {missing[0]!r} does not exist" if missing else ""
    example = names[0] if names else "images/a.jpg"
    return UserError(
        f"{path}: no row matches an image of the dataset{unmatched}. The column {column!r} must "
        f"have paths relative to its folder, such as {example!r}."
    )


def _describe_unused_rows(
    path: Path, missing: Sequence[str], unlabeled: Sequence[str]
) -> list[str]:
    return [
        f"{len(cells)} {'row' if len(cells) == 1 else 'rows'} of {path.name} {problem} "
        f"({_shorten(cells)})"
        for cells, problem in ((missing, "without a file"), (unlabeled, "without a label"))
        if cells
    ]


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the numbered rows of a table with commas, semicolons or tabs.

    Rows are numbered as in a spreadsheet: the header is 1, and blank rows count.

    Raises:
        UserError: the file cannot be read, is not a CSV table, or has no rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise read_error(f"--labels {path}", error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"Cannot read --labels {path}: it is not UTF-8 text.") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [row for row in enumerate(rows, 1) if any(cell.strip() for cell in row[1])]
    except csv.Error as error:
        raise UserError(f"Cannot read --labels {path}: it is not a CSV table ({error}).") from error
    if len(lines) < 2:
        raise UserError(
            f"--labels {path} has no rows. Give a table with a header, a column for paths and one "
            "for labels."
        )
    return lines[0][1], lines[1:]


def _find_column(
    path: Path, header: Sequence[str], columns: Mapping[str, int], names: Sequence[str]
) -> int:
    """Return the index of the first name that is a column of the table.

    Args:
        path: the table, for the message.
        header: its column names, for the message.
        columns: index of each column, by its stripped, casefolded name.
        names: `PATHS` or `LABELS`.

    Raises:
        UserError: the table has none of them.
    """
    for name in names:
        if name in columns:
            return columns[name]
    content = "paths" if names is PATHS else "labels"
    raise UserError(
        f"--labels {path} has no column for {content}: its columns are {', '.join(header)}. Rename "
        f"one of them; accepted names include {', '.join(names[:5])}."
    )


def _describe_row(row: Row) -> str:
    """Return the label, and the split and the group if the row has them."""
    parts = {"split": row.split, "group": row.group}
    return repr(row.label) + "".join(
        f" ({name} {value})" for name, value in parts.items() if value is not None
    )


def _parse_cell(path: Path, number: int, cell: str) -> str | None:
    """Return the split in a cell, None if it is empty; raise UserError if it is unknown."""
    name = cell.strip().casefold()
    if name and name not in SPLITS:
        raise UserError(
            f"{path}, row {number}: {cell.strip()!r} is not a split. Use train, valid or test."
        )
    return SPLITS[name] if name else None


class _FileMatcher:
    """Lookup of files by their path or name, each with or without the suffix."""

    def __init__(self, names: Sequence[str], table: Path, folder: Path) -> None:
        self.table, self.folder, self.by_key = table, folder.resolve(), dict[str, list[str]]()
        parent = table.resolve().parent
        self.base = (
            parent.relative_to(self.folder).as_posix() if parent.is_relative_to(self.folder) else ""
        )
        for name in names:
            pure = PurePosixPath(name)
            for key in {name, str(pure.with_suffix("")), pure.name, pure.stem}:
                self.by_key.setdefault(_nfc(key), []).append(name)
        self.names = {_nfc(name): name for name in names}

    def find(self, cell: str, split: str | None, number: int) -> str | None:
        """Return the path of the file that a cell denotes; None if there is none.

        An exact path has precedence: relative to the dataset's folder, to the table's folder, or to
        the parent of the dataset's folder.

        Args:
            cell: path or name of the file; absolute paths and backslashes are allowed.
            split: split of the row, which resolves names that occur in several splits; None if
                the row has none: see `_filter_by_split`.
            number: number of the row, for messages.

        Raises:
            UserError: the path is outside the dataset's folder, or several files match.
        """
        key = _nfc(posixpath.normpath(cell.replace("\\", "/")))
        if Path(key).is_absolute() and Path(key).is_relative_to(self.folder):
            key = Path(key).relative_to(self.folder).as_posix()
        if key == ".." or key.startswith("../") or Path(key).is_absolute():
            raise UserError(
                f"{self.table}, row {number}: {cell!r} is outside the dataset's folder. Use a path "
                "relative to the folder."
            )
        from_table = posixpath.normpath(posixpath.join(self.base, key))
        for exact in (key, from_table, key.removeprefix(f"{self.folder.name}/")):
            if exact in self.names:
                return self.names[exact]
        matches = self.by_key.get(from_table) or self.by_key.get(key, [])
        if len(matches) > 1:
            matches = list(self._filter_by_split(matches, split)) or matches
        if len(matches) > 1:
            raise UserError(
                f"{self.table}, row {number}: {cell!r} matches {matches[0]} and {matches[1]}. Use "
                "the path relative to the dataset's folder."
            )
        return matches[0] if matches else None

    def _filter_by_split(self, names: Sequence[str], split: str | None) -> Iterator[str]:
        """Yield the files in a folder of the split, or in a folder with the table's name.

        The split of a row without one is that of the table's name, such as `train.csv`.
        """
        split = split or parse_split(self.table.stem)
        for name in names:
            folders = PurePosixPath(name).parts[:-1]
            if self.table.stem in folders or (split and split in map(parse_split, folders)):
                yield name


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _shorten(cells: Sequence[str]) -> str:
    return ", ".join(cells[:SHOWN]) + (", ..." if len(cells) > SHOWN else "")

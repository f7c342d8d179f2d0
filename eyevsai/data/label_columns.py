"""Names of the columns of label tables."""

from __future__ import annotations

import re
from pathlib import Path

PATHS = (  # names of the column of paths, in order of preference
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
LABELS = (  # names of the column of labels, in order of preference
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
MAX_HEADER_BYTES = 10_000


def is_label_table(path: Path) -> bool:
    """Return True if the first line of a CSV or TSV file names a column of paths and of labels."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as stream:
            header = stream.readline(MAX_HEADER_BYTES)
    except OSError:
        return False
    columns = {name.strip(" \"'").casefold() for name in re.split(r"[,;\t]", header.strip())}
    return bool(columns & set(PATHS)) and bool(columns & set(LABELS))

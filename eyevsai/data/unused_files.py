"""Files of a dataset that are not read, counted and named by reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eyevsai.data.files import OTHER_SUFFIXES, escape, is_text, walk

SHOWN = 3  # names of files for each reason


@dataclass(frozen=True)
class UnusedFile:
    """A file that is not read. `reason` completes `8 files ...`: `that do not decode`."""

    path: Path
    reason: str


def unused_pages(pages: Iterable[Path]) -> list[UnusedFile]:
    """Return the files in folders that were saved with a web page."""
    return [
        UnusedFile(path, f"in {escape(page.name)}/, which a browser saves with a page")
        for page in pages
        for path, _ in walk(page)
    ]


def reason_not_an_image(path: Path) -> UnusedFile:
    """Return a file that is no image, with the reason."""
    if not is_text(str(path)):
        return UnusedFile(path, "with a name that is not UTF-8")
    return UnusedFile(
        path,
        "that are no images" if path.suffix.lower() in OTHER_SUFFIXES else "that do not decode",
    )


def describe_unused(unused: Iterable[UnusedFile]) -> str:
    """Return `20 files in the root (a.jpg, b.jpg, c.jpg, ...)`, by reason; empty if all files are
    read.
    """
    by_reason: dict[str, list[Path]] = {}
    for each in unused:
        by_reason.setdefault(each.reason, []).append(each.path)
    told = []
    for reason, paths in by_reason.items():
        names = ", ".join(escape(path.name) for path in paths[:SHOWN]) + (
            ", ..." if len(paths) > SHOWN else ""
        )
        told.append(f"{len(paths)} {_singular(reason, len(paths))} ({names})")
    return "; ".join(told)


def _singular(reason: str, count: int) -> str:
    if count != 1:
        return f"files {reason}"
    for plural, singular in (
        ("do not", "does not"),
        ("are copies", "is a copy"),
        ("are no images", "is no image"),
    ):
        reason = reason.replace(plural, singular)
    return f"file {reason}"

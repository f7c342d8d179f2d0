"""Unused files of a dataset, and their summary by reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eyevsai.data.files import OTHER_SUFFIXES, escape, is_text, walk

SHOWN = 3  # file names for each reason


@dataclass(frozen=True)
class UnusedFile:
    """Unused file. `reason` completes `8 files ...`, for example `that do not decode`."""

    path: Path
    reason: str


def unused_pages(pages: Iterable[Path]) -> list[UnusedFile]:
    """Return the files in folders of saved web pages, with the reason."""
    return [
        UnusedFile(path, f"in {escape(page.name)}/, saved by a browser with a web page")
        for page in pages
        for path, _ in walk(page)
    ]


def reason_not_an_image(path: Path) -> UnusedFile:
    """Return a file that is not an image, with the reason."""
    if not is_text(str(path)):
        return UnusedFile(path, "with a name that is not UTF-8")
    return UnusedFile(
        path,
        "that are not images" if path.suffix.lower() in OTHER_SUFFIXES else "that do not decode",
    )


def describe_unused(unused: Iterable[UnusedFile]) -> str:
    """Return a summary by reason, such as `20 files in the root (a.jpg, b.jpg, c.jpg, ...)`.

    It is empty if there are no unused files.
    """
    by_reason: dict[str, list[Path]] = {}
    for each in unused:
        by_reason.setdefault(each.reason, []).append(each.path)
    parts = []
    for reason, paths in by_reason.items():
        names = ", ".join(escape(path.name) for path in paths[:SHOWN]) + (
            ", ..." if len(paths) > SHOWN else ""
        )
        parts.append(f"{len(paths)} {_agree_in_number(reason, len(paths))} ({names})")
    return "; ".join(parts)


def _agree_in_number(reason: str, count: int) -> str:
    """Return `file` or `files` with the reason, in the singular if `count` is 1."""
    if count != 1:
        return f"files {reason}"
    for plural, singular in (
        ("that do not", "that does not"),
        ("that are copies", "that is a copy"),
        ("that are not images", "that is not an image"),
    ):
        if reason.startswith(plural):
            reason = singular + reason.removeprefix(plural)
    return f"file {reason}"

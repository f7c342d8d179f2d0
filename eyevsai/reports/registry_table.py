"""The registry and its log as tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eyevsai.formats.factory import PASSED

WIDE = 160  # where no terminal says how wide it is: nothing is cut off there


def print_status(versions: Iterable[Mapping[str, Any]]) -> None:
    """A table for each model, a row for each version."""
    console = _console()
    for name, rows in groupby(versions, key=lambda each: str(each["name"])):
        table = Table(
            "",
            "stage",
            "aliases",
            "accuracy",
            "exports",
            "MB",
            "registered",
            "promoted",
            title=escape(name),
            title_justify="left",
        )
        for each in rows:
            size = "" if each["size_bytes"] is None else f"{each['size_bytes'] / 1e6:.1f}"
            table.add_row(
                str(each["version"]),
                _stage(each),
                escape(", ".join(each["aliases"])),
                _accuracy(each),
                _exports(each["exports"]),
                size,
                _by(each["registered"], each["registered_by"]),
                _by(each["promoted"], each["promoted_by"]),
            )
        console.print(table)


def print_log(entries: Iterable[Mapping[str, Any]]) -> None:
    """A row for each call."""
    table = Table("time", "who", "what", "version", "stage", "before", "after", "why")
    for each in entries:
        done = each["action"] + (", forced" if each["forced"] else "")
        done += "" if each["status"] == "FINISHED" else f": {each['status']}"
        table.add_row(
            _minute(each["time"]),
            escape(each["user"]),
            done,
            escape(each["versions"]),
            each["stage"],
            _word(each["before"]),
            _word(each["after"]),
            escape(each["reason"]),
        )
    _console().print(table)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDE)


def _stage(each: Mapping[str, Any]) -> str:
    notes = [
        each["stage"],
        *(["by hand"] if each["by_hand"] else []),
        *(["pinned"] if each["pinned"] else []),
    ]
    return ", ".join(filter(None, notes))


def _accuracy(each: Mapping[str, Any]) -> str:
    if each["accuracy"] is not None:
        return f"{each['accuracy']:.4f} test"
    return "" if each["valid_accuracy"] is None else f"{each['valid_accuracy']:.4f} valid"


def _exports(fared: Mapping[str, str]) -> str:
    return ", ".join(name if how == PASSED else f"{name} refused" for name, how in fared.items())


def _by(time: str | None, user: str | None) -> str:
    return " ".join(filter(None, (_minute(time or ""), escape(user or ""))))


def _minute(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M}" if time else ""


def _word(version: int | None) -> str:
    return "" if version is None else str(version)


def print_plan(plan: Mapping[str, Any], *, verbose: bool) -> None:
    """A line for each item that goes, uncut, so that two plans can be compared; with `verbose` for
    what stays, too.
    """
    items = plan["items"]
    types = max((len(item["type"]) for item in items), default=0)
    targets = max((len(item["target"]) for item in items), default=0)
    for item in items:
        print(
            f"{item['type']:<{types}}  {item['target']:<{targets}}  {item['size_bytes']:>15,}  "
            f"{item['reason']}"
        )
    if verbose:
        for what, why in plan["kept"].items():
            print(f"stays: {what}: {why}")
    print(f"{len(items)} items, {plan['bytes']:,} bytes" if items else "Nothing to delete.")

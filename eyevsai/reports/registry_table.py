"""Registry status, audit log and deletion plan as terminal output."""

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

WIDE = 160  # columns without a terminal, so that nothing is cut off


def print_status(versions: Iterable[Mapping[str, Any]]) -> None:
    """Print one table per registered model, with a row for each version."""
    console = _console()
    for name, rows in groupby(versions, key=lambda each: str(each["name"])):
        table = Table(
            "",
            "stage",
            "aliases",
            "accuracy",
            "floor",
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
                _format_stage(each),
                escape(", ".join(each["aliases"])),
                _format_accuracy(each),
                escape(each["floor"] or ""),
                _format_exports(each["exports"]),
                size,
                _format_event(each["registered"], each["registered_by"]),
                _format_event(each["promoted"], each["promoted_by"]),
            )
        console.print(table)


def print_log(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print the audit log as a table, with a row for each call."""
    table = Table("time", "user", "action", "version", "stage", "before", "after", "reason")
    for each in entries:
        action = each["action"] + (", forced" if each["forced"] else "")
        action += "" if each["status"] == "FINISHED" else f": {each['status']}"
        table.add_row(
            _format_time(each["time"]),
            escape(each["user"]),
            action,
            escape(each["versions"]),
            each["stage"],
            _format_number(each["before"]),
            _format_number(each["after"]),
            escape(each["reason"]),
        )
    _console().print(table)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDE)


def _format_stage(each: Mapping[str, Any]) -> str:
    notes = [
        each["stage"],
        *(["by hand"] if each["by_hand"] else []),
        *(["pinned"] if each["pinned"] else []),
    ]
    return ", ".join(filter(None, notes))


def _format_accuracy(each: Mapping[str, Any]) -> str:
    if each["accuracy"] is not None:
        return f"{each['accuracy']:.4f} test"
    return "" if each["valid_accuracy"] is None else f"{each['valid_accuracy']:.4f} valid"


def _format_exports(results: Mapping[str, str]) -> str:
    return ", ".join(
        name if result == PASSED else f"{name} refused" for name, result in results.items()
    )


def _format_event(time: str | None, user: str | None) -> str:
    return " ".join(filter(None, (_format_time(time or ""), escape(user or ""))))


def _format_time(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M}" if time else ""


def _format_number(version: int | None) -> str:
    return "" if version is None else str(version)


def print_plan(plan: Mapping[str, Any], *, verbose: bool) -> None:
    """Print one line for each item to delete, uncut, so that two plans can be compared.

    Args:
        plan: deletion plan as JSON values.
        verbose: print the reason for each entity that is kept, too.
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
        for target, reason in plan["kept"].items():
            print(f"kept: {target}: {reason}")
    print(f"{len(items)} items, {plan['bytes']:,} bytes" if items else "Nothing to delete.")

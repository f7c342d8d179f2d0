"""Registry status, audit log and deletion plan as terminal output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any

from rich.markup import escape

from eyevsai.core.terminal import wrap
from eyevsai.formats.factory import PASSED
from eyevsai.reports.console import make_table, print_table


def print_status(versions: Iterable[Mapping[str, Any]]) -> None:
    """Print one table per registered model, with a row for each version."""
    for name, rows in groupby(versions, key=lambda each: str(each["name"])):
        table = make_table(
            "",
            "stage",
            "accuracy",
            "floor",
            "exports",
            "MB",
            "registered",
            "promoted",
            title=escape(name),
        )
        for each in rows:
            size = "" if each["size_bytes"] is None else f"{each['size_bytes'] / 1e6:.1f}"
            table.add_row(
                str(each["version"]),
                escape("\n".join(_list_stages(each))),
                _format_accuracy(each),
                escape(each["floor"] or ""),
                _format_exports(each["exports"]),
                size,
                _format_event(each["registered"], each["registered_by"]),
                _format_event(each["promoted"], each["promoted_by"]),
            )
        print_table(table)


def print_log(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print the audit log as a table, with a row for each call."""
    table = make_table("time", "user", "action", "version", "stage", "before", "after", "reason")
    for each in entries:
        action = each["action"] + (", forced" if each["forced"] else "")
        action += "" if each["status"] == "FINISHED" else f": {each['status']}"
        table.add_row(
            _format_event(each["time"], None),
            escape(each["user"]),
            action,
            escape(each["versions"]),
            each["stage"],
            _format_number(each["before"]),
            _format_number(each["after"]),
            escape(each["reason"]),
        )
    print_table(table)


def _list_stages(each: Mapping[str, Any]) -> list[str]:
    """Return the stage of a version, its aliases as in `NAME@ALIAS`, and notes, if any."""
    notes = {"by hand": each["by_hand"], "pinned": each["pinned"]}
    return [
        *filter(None, [each["stage"]]),
        *(f"@{alias}" for alias in each["aliases"]),
        *(note for note, applies in notes.items() if applies),
    ]


def _format_accuracy(each: Mapping[str, Any]) -> str:
    if each["accuracy"] is not None:
        return f"{each['accuracy']:.4f} test"
    return "" if each["valid_accuracy"] is None else f"{each['valid_accuracy']:.4f} valid"


def _format_exports(results: Mapping[str, str]) -> str:
    return "\n".join(
        name if result == PASSED else f"{name} refused" for name, result in results.items()
    )


def _format_event(time: str | None, user: str | None) -> str:
    """Return the date, and below it time and user: in one line, the cell would be too wide."""
    date, _, clock = _format_time(time or "").partition(" ")
    return f"{date}\n{clock} {escape(user or '')}".strip()


def _format_time(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M}" if time else ""


def _format_number(version: int | None) -> str:
    return "" if version is None else str(version)


def print_plan(plan: Mapping[str, Any], *, verbose: bool) -> None:
    """Print each item to delete, uncut, so that two plans can be compared.

    Args:
        plan: deletion plan as JSON values.
        verbose: print the reason for each entity that is kept, too.
    """
    items = plan["items"]
    types = max((len(item["type"]) for item in items), default=0)
    targets = max((len(item["target"]) for item in items), default=0)
    sizes = max((len(f"{item['size_bytes']:,}") for item in items), default=0)
    for item in items:
        print(
            wrap(
                item["reason"],
                f"{item['type']:<{types}}  {item['target']:<{targets}}  "
                f"{item['size_bytes']:>{sizes},}  ",
                indent=" " * (types + 2),
            )
        )
    if verbose:
        for target, reason in plan["kept"].items():
            print(wrap(reason, f"kept: {target}: ", indent="  "))
    print(f"{len(items)} items, {plan['bytes']:,} bytes" if items else "Nothing to delete.")

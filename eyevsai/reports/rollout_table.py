"""Status of a rollout as terminal output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from eyevsai.core.terminal import wrap
from eyevsai.reports.console import make_table, print_table

# titles of the tests, by name
TESTS = {
    "failed": "more failures than production",
    "slow": "more slow answers than production",
    "wrong": "more wrong answers than production",
    "disagreement": "more different answers than on the test images",
    "balance": "requests not split by the share",
    "limit": "proof: failures below the limit",
    "tolerance": "proof: loss of accuracy below the tolerance",
}
MAX_LOG_E = 20.0  # above it, evidence is shown as a power of ten


def print_rollout(status: Mapping[str, Any]) -> None:
    """Print the state of a rollout, its evidence, the servers and the decisions.

    Args:
        status: JSON values of the status.
    """
    if status["phase"] == "none":
        print(f"{status['model']} has no rollout.")
        return
    before, after = status["production"], status["candidate"]
    print(
        wrap(
            f"{status['model']}: version {after} in place of {before}: {status['state']}. "
            f"{_sentence(status['reason'])}"
        )
    )
    print(
        f"steps {', '.join(status['steps'])}; now {status['step'] or 'none'}, share "
        f"{status['share']:.2%}; {status['requests']:,} requests, {status['answers']:,} answers of "
        f"the candidate in this step, {status['labels']:,} labels"
    )
    table = make_table("test", "evidence", "decides at", "")
    for each in status["tests"]:
        table.add_row(
            TESTS[each["name"]],
            format_evidence(each["log_e"]),
            format_evidence(each["threshold"]),
            describe_test(each),
        )
    print_table(table)
    for text in status["missing"]:
        print(wrap(f"waits: {text}"))
    for server in status["servers"]:
        print(wrap(f"server {server['server']}: {describe_server(server, status['run_id'])}"))
    decisions = make_table("decision", "time", "state", "reason")
    for each in status["decisions"]:
        row = (str(each["seq"]), each["at"], each["state"], each["reason"])
        decisions.add_row(*map(escape, row))
    print_table(decisions)
    print(f"run {status['run_id']}")


def format_evidence(log_e: float) -> str:
    """Return E as text, from its natural logarithm."""
    if log_e > MAX_LOG_E:
        return f"10^{log_e / math.log(10):.0f}"
    return f"{math.exp(log_e):.3g}"


def describe_test(test: Mapping[str, Any]) -> str:
    """Return a word for the result of a test; empty while it has not decided."""
    if test["log_e"] < test["threshold"]:
        return ""
    return "ALARM" if test["is_alarm"] else "proved"


def describe_server(report: Mapping[str, Any], run_id: str) -> str:
    """Return the state of a server in words.

    Args:
        report: JSON values of its report.
        run_id: run of the rollout.
    """
    if report["run"] != run_id:
        return "does not follow this rollout yet"
    if report["tripped"]:
        return f"stopped using the candidate: {report['tripped']}"
    if report["failure"]:
        return f"cannot load the candidate: {report['failure']}"
    loaded = "candidate loaded" if report["is_loaded"] else "candidate not loaded"
    return f"{loaded}, decision {report['seq']}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""

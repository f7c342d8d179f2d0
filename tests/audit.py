"""Audit of dependencies: each advisory that pip-audit reports is fixed or answered.

    python -m tests.audit                    ask PyPI
    python -m tests.audit --service osv      ask osv.dev
    python -m tests.audit --osv-url URL      ask a mirror of osv.dev

The audit covers the newest tested releases (constraints/highest.txt), and what uv chooses at this
time for the environment of MLproject (conda.yaml) and for the team's server (the extra `server`).
constraints/advisories.toml has the answers.

Exit codes: 0 if each finding has an answer, and each answer a finding; 1 otherwise, or if an answer
is incomplete; 3 if the audit cannot be made, because the package index or the advisory service
cannot be reached, or the service does not have the advisories.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.ranges import PYTHON, ROOT, read_pins, read_project

ANSWERS = ROOT / "constraints" / "advisories.toml"
DECISIONS = "docs/decisions/"
# A release with advisories. pip-audit skips what an index does not describe, and then reports that
# there is no vulnerability; so does a mirror whose advisories are empty.
KNOWN_VULNERABLE = {"pillow": "9.0.0"}
UNANSWERED, IMPOSSIBLE = 1, 3


class AuditError(Exception):
    """The audit cannot be made; the message states the cause."""


@dataclass(frozen=True)
class Finding:
    """Advisory that applies to a release."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]
    description: str

    def __str__(self) -> str:
        names = f"{self.ids[0]} ({', '.join(self.ids[1:])})" if self.ids[1:] else self.ids[0]
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix is released"
        return f"{self.package} {self.version}: {names}, {fix}: {self.description[:200]}"


@dataclass(frozen=True)
class Answer:
    """Entry of constraints/advisories.toml."""

    id: str
    package: str
    reason: str
    decision: str

    def covers(self, finding: Finding) -> bool:
        """Return True if this is an answer to a finding."""
        return self.id in finding.ids and canonicalize_name(self.package) == finding.package


def read_answers(path: Path = ANSWERS) -> list[Answer]:
    """Return the answers of a file.

    Raises:
        ValueError: an entry is incomplete, or its page does not exist or does not name the id.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("advisory", [])
    fields = set(Answer.__dataclass_fields__)
    for entry in entries:
        if set(entry) != fields or not all(str(entry[field]).strip() for field in fields):
            raise ValueError(f"{path.name}: an entry needs {', '.join(sorted(fields))}: {entry}")
        page = ROOT / entry["decision"]
        if not entry["decision"].startswith(DECISIONS) or not page.is_file():
            raise ValueError(f"{path.name}: {entry['decision']} is no page of {DECISIONS}")
        if entry["id"] not in page.read_text(encoding="utf-8"):
            raise ValueError(f"{path.name}: {entry['decision']} does not name {entry['id']}")
    return [Answer(**entry) for entry in entries]


def read_report(report: str, pins: Mapping[str, str]) -> list[Finding]:
    """Return the findings of a JSON report of pip-audit.

    Args:
        report: output of `pip-audit --format json`.
        pins: versions of the packages that were audited, by name.

    Raises:
        AuditError: the report does not cover one of the packages.
    """
    entries = json.loads(report)["dependencies"]
    covered = {entry["name"]: entry["version"] for entry in entries if "version" in entry}
    missing = {name: version for name, version in pins.items() if covered.get(name) != version}
    if missing:
        reasons = {entry["name"]: entry.get("skip_reason", "") for entry in entries}
        first = next(iter(missing))
        raise AuditError(
            f"the service has no data of {len(missing)} of {len(pins)} packages, "
            f"{first} {missing[first]} among them: {reasons.get(first) or 'not in the report'}"
        )
    return [
        Finding(
            entry["name"],
            entry["version"],
            (vulnerability["id"], *vulnerability["aliases"]),
            tuple(vulnerability["fix_versions"]),
            vulnerability["description"],
        )
        for entry in entries
        for vulnerability in entry["vulns"]
    ]


def compare(
    findings: Iterable[Finding], answers: Iterable[Answer]
) -> tuple[list[Finding], list[Answer]]:
    """Return the findings without an answer, and the answers without a finding."""
    findings, answers = list(findings), list(answers)
    unanswered = [each for each in findings if not any(answer.covers(each) for answer in answers)]
    unused = [each for each in answers if not any(each.covers(finding) for finding in findings)]
    return unanswered, unused


def run_pip_audit(pins: Mapping[str, str], service: Sequence[str]) -> list[Finding]:
    """Return the findings of pip-audit for pinned packages; `service` are its options.

    Raises:
        AuditError: the service cannot be reached, or does not have all packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        requirements.write_text("".join(f"{name}=={pins[name]}\n" for name in pins))
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command = [sys.executable, "-m", "pip_audit", *options, *service]
        command += ["--requirement", str(requirements), "--output", str(report)]
        finished = subprocess.run(command, capture_output=True, text=True)
        # pip-audit exits with 1 for findings as for errors; only the former have a report
        if not report.is_file():
            lines = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
            raise AuditError(f"pip-audit failed: {lines[-1]}")
        return read_report(report.read_text(encoding="utf-8"), pins)


def resolve(requirements: Iterable[str]) -> dict[str, str]:
    """Return the versions that uv chooses for requirements, by name.

    Raises:
        AuditError: the package index cannot be reached, or the requirements contradict each other.
    """
    options = ["--python-version", PYTHON, "--no-header", "--no-annotate", "--quiet"]
    uv = [sys.executable, "-m", "uv", "pip", "compile", *options, "-"]
    finished = subprocess.run(uv, input="\n".join(requirements), capture_output=True, text=True)
    if finished.returncode:
        raise AuditError(f"uv cannot resolve the requirements: {finished.stderr.strip()}")
    return pins_of(map(Requirement, finished.stdout.splitlines()))


def pins_of(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Return the versions of pinned requirements, by canonical name."""
    return {
        canonicalize_name(pin.name): str(Version(str(pin.specifier).removeprefix("==")))
        for pin in requirements
    }


def list_environments() -> dict[str, dict[str, str]]:
    """Return the pinned packages of each environment that is audited."""
    conda: dict[str, Any] = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    (project,) = [each["pip"] for each in conda["dependencies"] if isinstance(each, dict)]
    return {
        "constraints/highest.txt": pins_of(read_pins("highest").values()),
        "conda.yaml": resolve(project),
        "extra server": resolve(read_project()["optional-dependencies"]["server"]),
    }


def audit(service: Sequence[str], answers: Sequence[Answer]) -> int:
    """Audit all environments, print the result, and return the exit code.

    Raises:
        AuditError: the audit cannot be made.
    """
    if not run_pip_audit(KNOWN_VULNERABLE, service):
        name, version = next(iter(KNOWN_VULNERABLE.items()))
        raise AuditError(f"the service has no advisory for {name} {version}, which is vulnerable")
    audited: set[tuple[str, str]] = set()
    findings: list[Finding] = []
    for environment, pins in list_environments().items():
        new = {name: version for name, version in pins.items() if (name, version) not in audited}
        findings += run_pip_audit(new, service) if new else []
        audited |= set(new.items())
        print(f"{environment}: {len(pins)} packages", flush=True)
    unanswered, unused = compare(findings, answers)
    for finding in unanswered:
        print(finding)
    if unanswered:
        print(
            f"{len(unanswered)} advisories have no answer. Raise the lower end of the range in "
            "pyproject.toml to a release with the fix, and run `python -m tests.ranges`; or write "
            f"an answer to {ANSWERS.relative_to(ROOT)}."
        )
    for answer in unused:
        print(
            f"{ANSWERS.relative_to(ROOT)} answers {answer.id} of {answer.package}, which is not "
            "reported. Remove the entry."
        )
    print(f"{len(audited)} releases, {len(findings)} advisories, {len(answers)} answers")
    return UNANSWERED if unanswered or unused else 0


def main(words: Sequence[str]) -> int:
    """Audit the dependencies with the options in `words`; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit")
    parser.add_argument("--service", choices=["pypi", "osv", "esms"], default="pypi")
    parser.add_argument("--osv-url", metavar="URL", help="query URL of a mirror of osv.dev")
    options = parser.parse_args(words)
    service = ["--vulnerability-service", options.service]
    if options.osv_url:
        service = ["--vulnerability-service", "osv", "--osv-url", options.osv_url]
    try:
        return audit(service, read_answers())
    except ValueError as error:
        print(error, file=sys.stderr)
        return UNANSWERED
    except AuditError as error:
        print(
            f"The dependencies cannot be audited with {service[-1]}: {error}. Run `make audit` "
            "where that service can be reached (HTTPS_PROXY names a proxy), or name another with "
            "`python -m tests.audit --service osv` or `--osv-url URL`.",
            file=sys.stderr,
        )
        return IMPOSSIBLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Audit of dependencies: findings of pip-audit against constraints/advisories.toml."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import audit
from tests.audit import (
    Answer,
    AuditError,
    Finding,
    compare,
    list_environments,
    read_answers,
    read_report,
)

PAGE = "docs/decisions/033-dependency-ranges.md"
# recorded from pip-audit 2.10.1, with fewer advisories and shorter descriptions
RECORDED = json.dumps(
    {
        "dependencies": [
            {
                "name": "pillow",
                "version": "9.0.0",
                "vulns": [
                    {
                        "id": "PYSEC-2022-168",
                        "fix_versions": ["9.0.1"],
                        "aliases": ["GHSA-9j59-75qj-795w", "CVE-2022-24303"],
                        "description": "Pillow before 9.0.1 allows attackers to delete files.",
                    },
                    {
                        "id": "PYSEC-2023-175",
                        "fix_versions": [],
                        "aliases": [],
                        "description": "Pillow bundled libwebp binaries that are vulnerable.",
                    },
                ],
            },
            {"name": "numpy", "version": "2.4.6", "vulns": []},
        ],
        "fixes": [],
    }
)
PINS = {"pillow": "9.0.0", "numpy": "2.4.6"}
# what pip-audit reports, with exit code 0, where an index has no advisories
SKIPPED = json.dumps(
    {
        "dependencies": [
            {
                "name": "pillow",
                "skip_reason": "Dependency not found on PyPI and could not be audited: "
                "pillow (9.0.0)",
            }
        ],
        "fixes": [],
    }
)
# of the advisory database of PyPA, which osv.dev serves
RECORD = {
    "id": "PYSEC-2022-168",
    "aliases": ["GHSA-9j59-75qj-795w", "CVE-2022-24303"],
    "summary": "Pillow before 9.0.1 allows attackers to delete files.",
    "affected": [
        {
            "package": {"name": "pillow", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.0.1"}]}],
        }
    ],
}


def answer(name: str, package: str = "pillow") -> Answer:
    return Answer(name, package, "not called", PAGE)


def test_findings_have_ids_versions_and_fixes() -> None:
    first, second = read_report(RECORDED, PINS)
    assert str(first) == (
        "pillow 9.0.0: PYSEC-2022-168 (GHSA-9j59-75qj-795w, CVE-2022-24303), fixed in 9.0.1: "
        "Pillow before 9.0.1 allows attackers to delete files."
    )
    assert "PYSEC-2023-175, no fix is released: " in str(second)


@pytest.mark.parametrize(
    ("answers", "unanswered", "unused"),
    [
        ([], ["PYSEC-2022-168", "PYSEC-2023-175"], []),
        ([answer("PYSEC-2022-168")], ["PYSEC-2023-175"], []),
        ([answer("CVE-2022-24303"), answer("PYSEC-2023-175", "Pillow")], [], []),
        ([answer("PYSEC-2022-168"), answer("PYSEC-2023-175"), answer("CVE-1")], [], ["CVE-1"]),
        (
            [answer("PYSEC-2022-168", "mlflow"), answer("PYSEC-2023-175")],
            ["PYSEC-2022-168"],
            ["PYSEC-2022-168"],
        ),
    ],
)
def test_each_finding_needs_an_answer_and_each_answer_a_finding(
    answers: list[Answer], unanswered: list[str], unused: list[str]
) -> None:
    findings, unmatched = compare(read_report(RECORDED, PINS), answers)
    assert [finding.ids[0] for finding in findings] == unanswered
    assert [each.id for each in unmatched] == unused


@pytest.mark.parametrize(
    ("report", "cause"),
    [
        (SKIPPED, "1 of 1 packages, pillow 9.0.0 among them: Dependency not found on PyPI"),
        (json.dumps({"dependencies": [], "fixes": []}), "pillow 9.0.0 among them: not in the"),
        (RECORDED.replace('"9.0.0"', '"9.0.1"'), "pillow 9.0.0 among them"),
    ],
)
def test_report_that_does_not_cover_a_package_is_no_audit(report: str, cause: str) -> None:
    with pytest.raises(AuditError, match="has no data of") as raised:
        read_report(report, {"pillow": "9.0.0"})
    assert cause in str(raised.value)


def test_answers_of_the_project_are_complete() -> None:
    assert all(isinstance(each, Answer) for each in read_answers())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"reason": " "}, "an entry needs decision, id, package, reason"),
        ({"until": "2027-01-01"}, "an entry needs decision, id, package, reason"),
        ({"decision": "docs/decisions/none.md"}, "is no page of docs/decisions/"),
        ({"decision": "README.md"}, "is no page of docs/decisions/"),
        ({"id": "PYSEC-0000-0"}, "does not name PYSEC-0000-0"),
        ({}, None),
    ],
)
def test_answer_needs_a_reason_and_a_page_that_names_it(
    entry: dict[str, str], message: str | None, tmp_path: Path
) -> None:
    # any words of the page stand for an id
    fields = {"id": "mlflow-skinny", "package": "mlflow", "reason": "x", "decision": PAGE} | entry
    path = tmp_path / "advisories.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    path.write_text("\n".join(["[[advisory]]", *lines]))
    if message is None:
        assert read_answers(path) == [Answer(**fields)]
        return
    with pytest.raises(ValueError, match=message):
        read_answers(path)


class Service(ThreadingHTTPServer):
    """Advisory service with the API of osv.dev, which has one advisory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.vulnerable: set[tuple[str, str]] = {("pillow", "9.0.0")}
        self.queries: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1/query"


class Handler(BaseHTTPRequestHandler):
    """Handler of the queries of a `Service`."""

    server: Service

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        release = query["package"]["name"], query["version"]
        self.server.queries.append(release)
        body = {"vulns": [RECORD]} if release in self.server.vulnerable else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """Return the answers of the audit, which has one environment."""
    answers: list[Answer] = []
    monkeypatch.setattr(audit, "read_answers", lambda: answers)
    monkeypatch.setattr(audit, "list_environments", lambda: {"one": {"pillow": "9.0.0"}})
    return answers


@pytest.mark.processes("pip-audit asks a service of the test")
def test_audit_fails_for_what_has_no_answer(
    service: Service, answers: list[Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(["--osv-url", service.url]) == 1
    printed = capsys.readouterr().out
    assert "pillow 9.0.0: PYSEC-2022-168 (" in printed
    assert "1 advisories have no answer" in printed
    answers.append(answer("CVE-2022-24303"))
    assert audit.main(["--osv-url", service.url]) == 0
    assert "1 releases, 1 advisories, 1 answers" in capsys.readouterr().out
    answers.append(answer("CVE-2020-1"))
    assert audit.main(["--osv-url", service.url]) == 1
    assert "answers CVE-2020-1 of pillow, which is not reported" in capsys.readouterr().out


@pytest.mark.processes("pip-audit asks a service of the test")
def test_audit_without_advisories_does_not_pass(
    service: Service, answers: list[Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    service.vulnerable.clear()  # a mirror that is reachable and empty
    assert audit.main(["--osv-url", service.url]) == 3
    assert "no advisory for pillow 9.0.0, which is vulnerable" in capsys.readouterr().err
    assert service.queries == [("pillow", "9.0.0")]
    service.server_close()
    assert audit.main(["--osv-url", service.url]) == 3
    error = capsys.readouterr().err
    assert f"cannot be audited with {service.url}: pip-audit failed: " in error
    assert "Run `make audit` where that service can be reached" in error


def test_environments_are_those_of_constraints_project_and_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "resolve", lambda lines: dict.fromkeys(lines, "1"))
    environments = list_environments()
    assert environments["constraints/highest.txt"]["mlflow"] == "3.17.2"
    assert {"mlflow==3.17.2", "openvino>=2025.3"} <= environments["conda.yaml"].keys()
    assert {"mlflow[auth]==3.17.2", "boto3>=1.40"} <= environments["extra server"].keys()


def test_each_environment_is_audited_once_per_release(
    answers: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = {
        "one": {"numpy": "2.4.6", "pillow": "12.0.0"},
        "two": {"numpy": "2.4.6", "pillow": "12.1.0"},
        "three": {"numpy": "2.4.6"},
    }
    monkeypatch.setattr(audit, "list_environments", lambda: environments)
    requests: list[dict[str, str]] = []

    def report(pins: dict[str, str], service: Sequence[str]) -> list[Finding]:
        requests.append(pins)
        return [Finding("pillow", "9.0.0", ("A",), (), "")] if pins["pillow"] == "9.0.0" else []

    monkeypatch.setattr(audit, "run_pip_audit", report)
    assert audit.main([]) == 0
    assert requests[1:] == [environments["one"], {"pillow": "12.1.0"}]

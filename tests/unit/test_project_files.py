"""Files of the project as such: licence, metadata, security policy, changelog."""

from __future__ import annotations

import ast
import hashlib
import re
import tomllib
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet

from eyevsai.core.version import VERSION
from eyevsai.data.catalog import UNIONS
from eyevsai.data.sources import SOURCES
from eyevsai.models.transfer.backbones import BACKBONES
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RELEASE = re.compile(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}( \[YANKED\])?")


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def rows_below(page: str, heading: str) -> dict[str, str]:
    """Return the rows of the first table below a heading, by their first cell."""
    table = re.search(r"(?:^\|.*\n)+", read(page).partition(heading)[2], re.MULTILINE)
    assert table, f"{page} has no table below {heading!r}"
    rows = [row.strip("|").split("|", 1) for row in table[0].splitlines()[2:]]
    return {first.strip(): rest for first, rest in rows}


def defined_tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_licence_is_declared_with_its_complete_text() -> None:
    text = (ROOT / "LICENSE").read_bytes()
    # of https://www.apache.org/licenses/LICENSE-2.0.txt
    digest = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256(text).hexdigest() == digest
    vendored = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("eyevsai/**/*LICENSE*")}
    assert PROJECT["license"] == "Apache-2.0 AND MIT"
    assert PROJECT["license-files"] == ["LICENSE", *sorted(vendored)]
    assert PROJECT["authors"] == [{"name": "the eyevsai authors"}]
    assert PROJECT["version"] == VERSION
    # setuptools refuses them beside a licence expression
    assert not [each for each in PROJECT["classifiers"] if each.startswith("License ::")]
    assert "[Apache-2.0](LICENSE)" in read("README.md")


def test_classifiers_name_each_supported_python() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    named = {
        each.rpartition(" ")[2]
        for each in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", each)
    }
    assert named == {f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported}


def test_terms_of_all_datasets_and_weights_are_stated() -> None:
    datasets = " ".join(rows_below("docs/data.md", "**Terms.**"))
    assert {f"`{name}`" for name in ("digits", *SOURCES, *UNIONS)} <= set(
        datasets.replace(",", "").split()
    )
    weights = " ".join(rows_below("docs/training.md", "### Terms of the weights"))
    assert [name for name in BACKBONES if f"`{name}`" not in weights] == []


def test_every_promise_of_the_security_policy_names_tests_that_exist() -> None:
    rows = rows_below("SECURITY.md", "## Threat model")
    for topic in ("images", "archives", "model folders", "weights", "requests", "parameters"):
        assert any(topic in row for row in rows), topic
    for name, row in rows.items():
        proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert proofs, f"no test proves: {name}"
        for path, test in proofs:
            assert test in defined_tests(ROOT / path), f"{path}::{test} does not exist"


def test_every_stable_thing_names_tests_that_exist() -> None:
    for name, row in rows_below("docs/releasing.md", "## Stable").items():
        paths = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert paths, f"no test guards: {name}"
        assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_the_changelog_keeps_the_form_of_keep_a_changelog() -> None:
    text = read("CHANGELOG.md")
    releases = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert releases.count("[Unreleased]") == 1
    assert [each for each in releases[1:] if not RELEASE.fullmatch(each)] == []
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert len(kinds) == len(set(kinds)) or len(releases) > 1


def test_templates_point_at_files_that_exist() -> None:
    for path in sorted((ROOT / ".github").rglob("*.md")):
        for name in re.findall(r"\b(?:docs/)?[\w/-]+\.md\b", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path} names {name}"
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"):
        assert yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1]).keys() >= {
            "name",
            "about",
        }

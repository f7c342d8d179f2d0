"""The guard of the language guide: what it counts, and what it leaves alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.language.__main__ import ALLOWED
from tests.language.patterns import find_violations

SOURCE = '''"""What a module is for."""

from __future__ import annotations


class Store:
    """Whether it is open."""

    def read(self, given: int) -> str:
        """Return the text; see
        where the file lies
        in the folder.
        """
        told = f"{given} is judged. Mend the folder."  # goes on with the next
        return told
'''


def test_each_pattern_is_found_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SOURCE)
    violations = find_violations(tmp_path / "module.py", "module.py")
    assert [(each.line, each.pattern) for each in violations] == [
        (1, "question"),
        (6, "question"),
        (9, "participle"),
        (10, "lies in"),
        (14, "go on with"),
        (14, "judge"),
        (14, "mend"),
        (14, "participle"),
    ]


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "found: int = 1",
        "for found in (): ...",
        "with open('x') as found: ...",
        "def f(found): ...",
        "def _found(): ...",
        "store.found = 1",
        "try: ...\nexcept OSError as found: ...",
        "print(found := 1)",
    ],
)
def test_a_participle_is_found_wherever_a_name_is_bound(code: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code)
    (violation,) = find_violations(tmp_path / "module.py", "module.py")
    assert (violation.pattern, violation.text) == ("participle", "found")


@pytest.mark.parametrize(
    "text",
    [
        "Return what is stored.",
        "The layer below.",
        "Foretell nothing; essays remain.",
        "Hold the lock while writing.",
    ],
)
def test_plain_sentences_pass(text: str, tmp_path: Path) -> None:
    for name, content in (("page.md", text), ("module.py", f'"""{text}"""\n')):
        (tmp_path / name).write_text(content)
        assert find_violations(tmp_path / name, name) == []


def test_a_page_is_checked_by_line(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Title\n\nThe report says which.\n")
    (violation,) = find_violations(tmp_path / "page.md", "page.md")
    assert (violation.line, violation.pattern) == (3, "say")


def test_each_exception_has_a_reason() -> None:
    for entry in tomllib.loads(ALLOWED.read_text())["allowed"]:
        assert set(entry) == {"path", "pattern", "text", "reason"}
        assert len(entry["reason"].split()) >= 3

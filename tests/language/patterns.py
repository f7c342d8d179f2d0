"""Wording that the language guide replaces, and the standard terms to use instead.

The guide is part of CONTRIBUTING.md ("How we write"). `find_violations` applies it to one file.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# First words of a docstring that describe a question instead of an action or a thing.
QUESTION_WORDS = ("What", "Which", "Whether", "How", "Where", "Who")
# A name of this kind says that something happened to a value, not what the value is.
PARTICIPLES = frozenset(
    {"said", "told", "left", "found", "known", "done", "given", "begun", "there", "held", "asked"}
)

_WORDS = {
    "say": (r"\b(?:say|says|said|saying)\b", "print, log, return, state, report"),
    "tell": (r"\b(?:tell|tells|told|telling)\b", "print, log, report, notify, distinguish"),
    "mend": (r"\b(?:mend|mends|mended|mending)\b", "fix, repair"),
    "judge": (r"\b(?:judge|judges|judged|judging|judgements?)\b", "evaluate, check"),
    "go on with": (r"\b(?:go|goes|gone|going|went) on\b", "resume, continue"),
    "held against": (r"\b(?:hold|holds|held|holding) [^.;:()]{0,40}?\bagainst\b", "compare with"),
    "lies in": (r"\b(?:lie|lies|lay|lying) (?:in|on|at|under|beside|there)\b", "is stored in, is"),
    "see base": (r"\bSee `[A-Z]\w*\.\w+`\.", "no docstring, or the difference from the base"),
}
WORDS = {name: (re.compile(each, re.IGNORECASE), fix) for name, (each, fix) in _WORDS.items()}
TEXT_SUFFIXES = frozenset({".md", ".html", ".json", ".yaml", ".yml", ".sh", ".toml", ""})


@dataclass(frozen=True)
class Violation:
    """One use of a replaced word."""

    path: str
    line: int  # from 1
    pattern: str  # a key of WORDS, "question" or "participle"
    text: str
    fix: str


def find_violations(path: Path, name: str) -> list[Violation]:
    """Return the violations in one file, in the order of lines.

    Args:
        path: Python source, or a text file with a suffix of `TEXT_SUFFIXES`.
        name: path to report, relative to the project.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return sorted(_in_lines(name, enumerate(text.splitlines(), 1)), key=lambda each: each.line)
    found = [*_in_code(name, ast.parse(text)), *_in_lines(name, _comments(text))]
    return sorted(found, key=lambda each: (each.line, each.pattern))


def _in_lines(name: str, lines: Iterator[tuple[int, str]]) -> Iterator[Violation]:
    for line, text in lines:
        for pattern, (regex, fix) in WORDS.items():
            if regex.search(text):
                yield Violation(name, line, pattern, " ".join(text.split()), fix)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _in_code(name: str, tree: ast.Module) -> Iterator[Violation]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            if docstring.split(" ")[0] in QUESTION_WORDS:
                line = getattr(node, "lineno", 1)
                first = docstring.splitlines()[0]
                yield Violation(name, line, "question", first, "a verb, or a noun phrase")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines = _string_lines(node)
            yield from _in_lines(name, lines)
        for target in _bound_names(node):
            if target[1] in PARTICIPLES:
                yield Violation(name, target[0], "participle", target[1], "a noun for the value")


def _string_lines(node: ast.Constant) -> Iterator[tuple[int, str]]:
    """Yield a string's text by line; words wrapped over two lines count at the first."""
    text = re.sub(r"(?<=\S)[ ]*\n[ ]*(?=\S)", " ", str(node.value))
    for offset, line in enumerate(text.split("\n")):
        yield node.lineno + offset, line


def _bound_names(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and name of a variable, attribute, parameter or function that is bound."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.lineno, node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.lineno, node.attr.lstrip("_")
    elif isinstance(node, ast.arg):
        yield node.lineno, node.arg
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.lineno, node.name.lstrip("_")
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.lineno, node.name

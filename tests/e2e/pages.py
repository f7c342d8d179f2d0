"""What README and docs tell people to type: read from their Markdown, in order.

A fenced block of `console`, `bash` or `sh` holds commands; in `console` they begin with `$ ` and
what stands below one is what it prints. Of that, numbers and ids may differ, and `...` stands for
anything. A `python` block is a program, which needs none of the blocks above it and prints what its
comments say (`# prints: TEXT`). A `toml` or `python` block whose first line is `# NAME.toml` or
`# NAME.py` is that file, which commands below it read.

HTML comments above a block, which a reader of the source sees, say what the tests do with it:

    <!-- not run: REASON -->            none of its commands; REASON begins with one of REASONS
    <!-- not run: REASON: make test --> only not the commands that begin so
    <!-- exit code 2 -->                its last command ends with this code
    <!-- given: ~/pictures/birds -->    images lie there, in class folders; a path that ends with
    .png is one image
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.conftest import ROOT

REASONS = {
    "network": "fetches something that is not on this machine",
    "installs": "changes the environment that the tests run in",
    "GPU": "needs a GPU",
    "several machines": "needs more than one machine",
    "team server": "needs a server with logins; tests/e2e/test_team.py starts one",
    "photographs": "needs datasets of photographs, and hours",
    "interruption": "goes on with an interrupted run; tests/robustness/test_kill.py interrupts "
    "some",
    "does not end": "runs until somebody stops it",
    "the tests": "is what runs this test",
    "the original": "needs a file of the original system; tests/e2e/test_import.py writes one",
}
SHELLS = ("console", "bash", "sh")
FILE = "file"  # language of a block that is a file
FILE_NAME = re.compile(r"# ([\w.-]+\.(?:toml|py))\b")
COMMENT = re.compile(r"^<!-- (not run|exit code|given): ?(.+) -->$|^<!-- (exit code) (\d+) -->$")
INLINE = re.compile(r"(?<!`)`((?:eyevsai|mlflow run|make) [^`]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """One command of a page: what is typed, and what is said of it."""

    page: str
    line: int
    text: str
    language: str
    shown: str = ""
    not_run: str | None = None
    code: int = 0

    @property
    def file_name(self) -> str | None:
        """Return the name of a block that is a file; None for a command."""
        found = FILE_NAME.match(self.text) if self.language == FILE else None
        return found[1] if found else None

    @property
    def reason(self) -> str | None:
        """The word of REASONS that `not_run` begins with, or all of it."""
        if self.not_run is None:
            return None
        return next(
            (word for word in REASONS if re.match(rf"{word}\b", self.not_run)), self.not_run
        )


@dataclass(frozen=True)
class Page:
    """What a Markdown file makes a reader do."""

    name: str
    commands: tuple[Command, ...]
    given: tuple[str, ...]
    inline: tuple[Command, ...]  # `eyevsai ...` inside a sentence or a table

    @property
    def runs(self) -> bool:
        """Whether anything in it is run by the tests."""
        return any(
            command.not_run is None and command.language != FILE for command in self.commands
        )

    @property
    def clones(self) -> bool:
        """Whether its reader needs nothing before."""
        return any(
            command.text.startswith("git clone <this repository>") for command in self.commands
        )


def read_pages() -> list[Page]:
    """README and all of docs."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        read_page(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in paths
    ]


def read_page(name: str, text: str) -> Page:
    """The commands of a page whose Markdown is given."""
    lines, commands, given, inline = (
        text.splitlines(),
        list[Command](),
        list[str](),
        list[Command](),
    )
    notes, index = list[tuple[str, str]](), 0
    while index < len(lines):
        line = lines[index].strip()
        if line.startswith("```"):
            end = next(at for at in range(index + 1, len(lines)) if lines[at].strip() == "```")
            block = _read_block(name, index + 1, line[3:].strip(), lines[index + 1 : end])
            commands += _annotate(list(block), notes)
            index, notes = end + 1, []
            continue
        if found := COMMENT.match(line):
            kind, said = found[1] or found[3], found[2] or found[4]
            given += [said.partition(",")[0]] if kind == "given" else []
            notes += [(kind, said)] if kind != "given" else []
        elif line:
            assert not notes, f"{name}:{index}: a comment about commands has no block below it"
            inline += [
                Command(name, index + 1, span, "inline") for span in INLINE.findall(lines[index])
            ]
        index += 1
    return Page(name, tuple(commands), tuple(given), tuple(inline))


def _annotate(block: list[Command], notes: list[tuple[str, str]]) -> list[Command]:
    for kind, said in notes:
        if kind == "exit code":
            block[-1] = replace(block[-1], code=int(said))
            continue
        reason, _, prefix = said.partition(": ")
        chosen = [each.text.startswith(prefix) for each in block]
        assert any(chosen), f"{block[0].page}:{block[0].line}: no command begins with {prefix!r}"
        block = [
            replace(each, not_run=reason) if hit else each
            for each, hit in zip(block, chosen, strict=True)
        ]
    return block


def _read_block(page: str, start: int, language: str, lines: list[str]) -> Iterator[Command]:
    text = "\n".join(lines)
    if language in ("python", "toml") and FILE_NAME.match(text):
        yield Command(page, start + 1, text, FILE)
    elif language == "python":
        yield Command(
            page, start + 1, text, language, "\n...\n".join(re.findall("# prints: (.+)", text))
        )
    if language not in SHELLS:
        return
    begins = [
        at
        for at, line in enumerate(lines)
        if line.startswith("$ ") or (language != "console" and line)
    ]
    continued = {at + 1 for at in range(len(lines)) if lines[at].endswith("\\")}
    begins = [at for at in begins if at not in continued]
    for at, until in zip(begins, [*begins[1:], len(lines)], strict=True):
        end = next(n for n in range(at, until) if not lines[n].endswith("\\")) + 1
        typed = "\n".join(lines[at:end]).removeprefix("$ ")
        yield Command(page, start + 1 + at, typed, language, "\n".join(lines[end:until]).strip())


def split_calls(text: str) -> list[list[str]]:
    """The words of each program that a shell command calls, without comments, redirections and
    variables set before.
    """
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    calls: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in (">", ">>", "<"):
            next(words)
        elif set(word) <= set("();<>|&"):
            calls.append([])
        elif calls[-1] or not re.match(r"\w+=", word):
            calls[-1].append(word)
    return [call for call in calls if call]


def pattern_of(shown: str) -> re.Pattern[str]:
    """What an output has to hold, from how a page shows it: numbers and ids may differ, `...` is
    anything.
    """
    pieces = re.split(r"((?m:\s*^\.\.\.$\s*)|\.\.\.|[0-9a-f]{32}|\d[\d.,]*(?:e-?\d+)?|\s+)", shown)
    return re.compile("".join(map(_piece, pieces)))


def _piece(piece: str) -> str:
    if piece.strip() == "...":
        return r"[\s\S]*?"
    if re.fullmatch("[0-9a-f]{32}", piece):
        return "[0-9a-f]{32}"
    if piece[:1].isdigit():
        return r"\d[\d.,]*(?:e-?\d+)?" + (re.escape(piece[-1]) if piece[-1] in ".," else "")
    return r"\s+" if piece.isspace() else re.escape(piece)


if __name__ == "__main__":
    for page in read_pages():
        for command in page.commands:
            if command.not_run is not None:
                print(
                    f"{page.name}:{command.line}: {command.text.splitlines()[0]}\n    not run: "
                    f"{command.not_run}"
                )

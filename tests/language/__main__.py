"""Check the wording of sources, help texts and messages: `python -m tests.language [PATH ...]`.

Prints each violation of the language guide with the standard term, and exits with 1 if there is
one. `allowed.toml` lists exceptions, each with its reason; an entry that matches nothing is an
error too. `--counts` prints the number of violations per pattern instead.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

from tests.language.patterns import TEXT_SUFFIXES, Violation, find_violations

ROOT = Path(__file__).parents[2]
ALLOWED = Path(__file__).parent / "allowed.toml"
CHECKED = ("eyevsai", "entrypoints", "benchmarks", "deploy", "docs", "README.md", "MLproject")


def main(arguments: list[str]) -> int:
    """Print the violations of the files in `arguments`, or of all checked files."""
    counts_only = "--counts" in arguments
    paths = [each for each in arguments if not each.startswith("--")]
    violations, unused = check(paths or CHECKED)
    if counts_only:
        for pattern, count in Counter(each.pattern for each in violations).most_common():
            print(f"{count:5} {pattern}")
        return 0
    for each in violations:
        print(f"{each.path}:{each.line}: {each.pattern}: {each.text[:140]}  [write: {each.fix}]")
    for entry in unused if not paths else []:
        print(f"{ALLOWED.name}: matches nothing, remove it: {entry}")
    print(f"{len(violations)} violations of the language guide", file=sys.stderr)
    return 1 if violations or (unused and not paths) else 0


def check(paths: list[str] | tuple[str, ...]) -> tuple[list[Violation], list[dict[str, str]]]:
    """Return the violations of tracked files under `paths`, and the unused allow-list entries."""
    allowed = tomllib.loads(ALLOWED.read_text())["allowed"]
    used: set[int] = set()
    violations = []
    for name in list_files(paths):
        for violation in find_violations(ROOT / name, name):
            matches = [
                number
                for number, entry in enumerate(allowed)
                if entry["path"] in (violation.path, "*")
                and entry["pattern"] == violation.pattern
                and entry["text"] in violation.text
            ]
            used.update(matches)
            if not matches:
                violations.append(violation)
    return violations, [entry for number, entry in enumerate(allowed) if number not in used]


def list_files(paths: list[str] | tuple[str, ...]) -> list[str]:
    """Return the tracked and new files under `paths` that have text to check."""
    command = ["git", "ls-files", "-co", "--exclude-standard", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = sorted(set(listed.split()))
    return [
        each
        for each in names
        if (ROOT / each).is_file() and Path(each).suffix in {".py", *TEXT_SUFFIXES}
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measure which single-line mutants `make test` kills.

    python -m tests.mutants reach
    python -m tests.mutants run [NUMBER ...]

`reach` runs the suite once on a copy of the tree in which each line to mutate notes the running
test, in its process and in those that it starts. `run` changes one line after another and runs the
tests that reached it, the shortest first, with -x. `EYEVSAI_TREE=FOLDER` does both for another
checkout, such as a worktree of an earlier commit. Results are in build/mutants/NAME of the current
folder, where NAME is the tree's.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

HERE = Path(__file__).parent
TREE = Path(os.environ.get("EYEVSAI_TREE", HERE.parents[1])).resolve()
OUT = Path("build", "mutants", TREE.name).resolve()
PYTEST = [sys.executable, "-m", "pytest", "-m", "not slow", "-p", "plugin"]
AT_ONCE = 2  # mutants, each in one process
# a run that takes so much longer than its tests took has found the mutant: it hangs
SLOWDOWN, SPARE_S = (4, 120)


def main(arguments: list[str]) -> None:
    """Do what the first word says: `reach` or `run`; numbers after `run` choose mutants."""
    OUT.mkdir(parents=True, exist_ok=True)
    if arguments[:1] == ["reach"]:
        reach()
    elif arguments[:1] == ["run"]:
        run([int(number) for number in arguments[1:]] or range(len(MUTANTS)))
    else:
        sys.exit(__doc__)


def reach() -> None:
    """Run the suite with probes; write the tests that reach each mutant, the shortest first."""
    notes = OUT / "notes"
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir()
    tree = copy_tree("tree")
    by_path = defaultdict(list)
    for number, mutant in enumerate(MUTANTS):
        by_path[mutant.path].append((number, mutant))
    for path, mutants in by_path.items():
        lines = (tree / path).read_text(encoding="utf-8").split("\n")
        positions = sorted(
            ((probe_line(tree, mutant), number) for number, mutant in mutants), reverse=True
        )
        for position, number in positions:
            indent = lines[position][: len(lines[position]) - len(lines[position].lstrip())]
            lines.insert(position, f"{indent}{probe(notes / str(number))}")
        (tree / path).write_text("\n".join(lines), encoding="utf-8")
    log = OUT / "log.jsonl"
    log.unlink(missing_ok=True)
    subprocess.run(
        [*PYTEST, "-n", "2", "--dist", "loadgroup"],
        cwd=tree,
        env=environment(log),
        stdin=subprocess.DEVNULL,
    )
    write_reached(notes)
    shutil.rmtree(tree)


def write_reached(notes: Path) -> None:
    """Write the tests that reached each mutant, the shortest first."""
    seconds, reached = read_seconds(), {}
    for number in range(len(MUTANTS)):
        note = notes / str(number)
        found = set(note.read_text().splitlines()) if note.exists() else set()
        tests = {without_group(line.rpartition(" ")[0]) for line in found} & seconds.keys()
        reached[number] = sorted(tests, key=lambda test: seconds[test])
    (OUT / "reached.json").write_text(json.dumps(reached, indent=1))


def without_group(test: str) -> str:
    """Return the id of a test without the group that pytest-xdist appends; parameters may hold an
    @, too.
    """
    name, _, group = test.rpartition("@")
    return name if name and "]" not in group else test


def run(numbers: list[int] | range) -> None:
    """Run the tests that reach each mutant until one fails; print and keep a table."""
    reached, seconds = json.loads((OUT / "reached.json").read_text()), read_seconds()
    results = OUT / "results.json"
    table = json.loads(results.read_text()) if results.exists() else {}

    def try_one(number: int) -> tuple[int, dict[str, object]]:
        mutant, tests, began = MUTANTS[number], reached[str(number)], time.monotonic()
        limit_s = SPARE_S + SLOWDOWN * sum(seconds[test] for test in tests)
        killer = run_mutant(number, mutant, tests, limit_s) if tests else None
        return number, {
            "promise": mutant.promise,
            "path": mutant.path,
            "tests": len(tests),
            "killed_by": killer,
            "seconds": round(time.monotonic() - began),
        }

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, row in pool.map(try_one, numbers):
            table[str(number)] = row
            results.write_text(json.dumps(table, indent=1))
            killer = row["killed_by"]
            print(
                f"{number:2d} {'killed' if killer else 'SURVIVED':8} {row['seconds']:4d} s "
                f"{row['tests']:4d} tests  {row['promise']}  [{killer or '-'}]",
                flush=True,
            )


def run_mutant(number: int, mutant: Mutant, tests: list[str], limit_s: float) -> str | None:
    """Return the test that fails, or None."""
    tree, log, names = copy_tree(f"tree-{number}"), OUT / f"{number}.jsonl", OUT / f"{number}.txt"
    path = tree / mutant.path
    lines = path.read_text(encoding="utf-8").split("\n")
    position = find_line(lines, mutant)
    lines[position] = lines[position].replace(mutant.old, mutant.new)
    path.write_text("\n".join(lines), encoding="utf-8")
    names.write_text("\n".join(tests))
    log.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [*PYTEST, "-x", f"@{names}"],
            cwd=tree,
            env=environment(log),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return "the time limit"
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    if done.returncode == 0:
        return None
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    last = rows[-1]["test"] if rows else "the import of the tests"
    failed = [row["test"] for row in rows if row["outcome"] == "failed"]
    return failed[0] if failed else f"pytest ended with {done.returncode} after {last}"


def read_seconds() -> dict[str, float]:
    """Return how long each test took with its fixtures, by its id without the group."""
    seconds: dict[str, float] = defaultdict(float)
    for row in map(json.loads, (OUT / "log.jsonl").read_text().splitlines()):
        seconds[without_group(row["test"])] += row["seconds"]
    return seconds


def copy_tree(name: str) -> Path:
    """Return a copy of the tracked and untracked files of the tree."""
    tree = OUT / name
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=TREE, capture_output=True, text=True
    )
    for file in listed.stdout.splitlines():
        if (TREE / file).is_file():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / file, tree / file)
    return tree


def environment(log: Path) -> dict[str, str]:
    """Return the environment of a run of pytest."""
    photos = os.environ.get("EYEVSAI_PHOTOS", str(TREE.parent / "shared" / "photos"))
    return os.environ | {"PYTHONPATH": str(HERE), "REACH_LOG": str(log), "EYEVSAI_PHOTOS": photos}


def probe(note: Path) -> str:
    """Return a statement that notes the running test."""
    test = "__import__('os').environ.get('PYTEST_CURRENT_TEST', '?') + '\\n'"
    return f"open({str(note)!r}, 'a').write({test})"


def find_line(lines: list[str], mutant: Mutant) -> int:
    """Return the index of the mutant's line."""
    (position,) = [number for number, line in enumerate(lines) if mutant.old in line]
    return position


def probe_line(tree: Path, mutant: Mutant) -> int:
    """Return the index of the line before which a probe is inserted: that of the statement around
    the mutant's line.
    """
    text = (tree / mutant.path).read_text(encoding="utf-8")
    line = find_line(text.split("\n"), mutant) + 1
    statements = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    innermost = max(statements, key=lambda node: node.lineno)
    return innermost.lineno - 1


if __name__ == "__main__":
    main(sys.argv[1:])

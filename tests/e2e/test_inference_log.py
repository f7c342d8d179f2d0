"""The inference log as servers and people use it: commands, outages, kills, several writers."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eyevsai.inference_log.records import Label, Version
from eyevsai.inference_log.settings import SECRET, LogWriterSettings
from eyevsai.inference_log.store import LogStore
from eyevsai.inference_log.writer import LogWriter, open_writer
from tests.conftest import create_database, find_postgres, start_postgres
from tests.forks import start_fork
from tests.invoke import invoke
from tests.unit.inference_log.records import CLASSES, IDENTITIES, MODEL, count_rows, make_answer

BOTH = ("sqlite", "postgres")
TEST_SECRET = "a secret of the tests"  # that of IDENTITIES


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    return create_database(request.getfixturevalue("postgres"), f"log_{time.monotonic_ns()}")


def start_writer(url: str, **values: object) -> LogWriter:
    writer = open_writer(LogWriterSettings(log=url, **values))  # type: ignore[arg-type]
    assert writer is not None
    return writer


@pytest.mark.parametrize("url", BOTH, indirect=True)
def test_commands(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, TEST_SECRET)
    images = tmp_path / "images"
    writer = start_writer(url, keep_images=1.0, images_dir=str(images))
    writer.put(Version(MODEL, 1, CLASSES))
    hashes = [IDENTITIES.hash_key(MODEL, f"customer {number}") for number in range(2)]
    answers = [make_answer(index, key_hash=hashes[index % 2]) for index in range(40)]
    for index, each in enumerate(answers):
        writer.put(each, b"\x89PNG %d" % index)
    assert writer.close() == 0
    env = {"EYEVSAI_LOG": url}

    done = invoke(tmp_path, "feedback", "suggest", MODEL, "--count", "10", **env)
    assert done.stdout == f"5 random and 5 uncertain answers: {MODEL}-to-label.csv\n"
    with open(tmp_path / f"{MODEL}-to-label.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with open(tmp_path / "labels.csv", "w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, ["id", "label"], extrasaction="ignore")
        table.writeheader()
        table.writerows(row | {"label": "two"} for row in rows)
        table.writerow({"id": rows[0]["id"], "label": "a class of another model"})
        table.writerow({"id": "0" * 48, "label": "two"})
    add = ("feedback", "add", MODEL, "labels.csv", "--source", "person:anna")
    done = invoke(tmp_path, *add, code=1, **env)
    assert done.stdout.startswith("10 accepted, 0 repeated, 0 conflicting, 0 waiting\n")
    assert "labels.csv, row 12: 'a class of another model' is no class" in done.stdout
    assert "row 13" in done.stdout
    done = invoke(tmp_path, *add, "--json", code=1, **env)
    assert json.loads(done.stdout)["results"]["repeated"] == 10

    tasks = ("feedback", "suggest", MODEL, "--label-studio", "--file", "tasks.json")
    done = invoke(tmp_path, *tasks, "--images-dir", str(images), **env)
    assert len(json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))) == 30
    done = invoke(tmp_path, *tasks, code=2, **env)
    assert "tasks.json exists" in done.stderr

    done = invoke(tmp_path, "feedback", "status", MODEL, **env)
    assert done.stdout.startswith("10 of 40 answers have labels: 0 disputed, 0 corrected.")
    assert "person:anna" in done.stdout
    done = invoke(tmp_path, "feedback", "exclude", "person:anna", **env)
    assert done.stdout == "person:anna is excluded\n"
    done = invoke(tmp_path, "feedback", "status", MODEL, "--json", **env)
    assert json.loads(done.stdout)["labelled"] == 0
    invoke(tmp_path, "feedback", "exclude", "person:anna", "--end", **env)

    done = invoke(tmp_path, "log", "export", MODEL, **env)
    assert done.stdout == f"40 answers: {MODEL}.parquet\n"
    exported = pq.read_table(tmp_path / f"{MODEL}.parquet").to_pydict()
    assert sum(label is not None for label in exported["true_label"]) == 10
    assert set(exported["key_hash"]) == set(hashes)

    forget = ("log", "forget", "--key", "customer 1", "--images-dir", str(images))
    done = invoke(tmp_path, *forget, **env)
    assert done.stdout.startswith("deleted 20 answers and ")
    assert sum(each.is_file() for each in images.rglob("*")) == 20
    done = invoke(tmp_path, *forget, "--json", **env)
    assert json.loads(done.stdout) == {"answers": 0, "labels": 0}
    done = invoke(tmp_path, "log", "prune", "--days", "0", "--images-dir", str(images), **env)
    assert done.stdout.startswith("deleted 20 answers and ")
    assert not any(each.is_file() for each in images.rglob("*"))
    done = invoke(tmp_path, "log", "prune", code=2, **env)
    assert "needs a limit" in done.stderr
    done = invoke(tmp_path, "log", "export", "other", code=2, **env)
    assert f"It has: {MODEL}." in done.stderr


@pytest.mark.parametrize("url", BOTH, indirect=True)
def test_readers_miss_no_row_of_several_writers(url: str) -> None:
    """Rows become visible in the order of their numbers, also from several transactions at once."""
    stores = [LogStore.open(url) for _ in range(4)]
    batches = [[[make_answer() for _ in range(20)] for _ in range(25)] for _ in stores[1:]]
    threads = [
        threading.Thread(target=lambda store=store, mine=mine: list(map(store.add_answers, mine)))
        for store, mine in zip(stores[1:], batches, strict=True)
    ]
    seen, last = list[str](), 0
    for each in threads:
        each.start()
    is_last = False
    while not is_last:
        is_last = not any(each.is_alive() for each in threads)
        with stores[0].reading() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT seq, id FROM answers WHERE seq > {last} ORDER BY seq"
            ).all()
        seen += [row.id for row in rows]
        last = rows[-1].seq if rows else last
    expected = {each.id for mine in batches for batch in mine for each in batch}
    assert len(seen) == len(expected) == 1_500
    assert set(seen) == expected
    for store in stores:
        store.close()


def write_until_killed(url: str, put: Path) -> None:
    """Put answers for ever; note each with its time after it was put."""
    writer = LogWriter(LogStore(url), IDENTITIES)
    number = os.open(put, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        answer = make_answer()
        writer.put([answer, Label(answer.id, "one", "person")])
        os.write(number, f"{answer.id} {time.time()}\n".encode())
        time.sleep(0.002)


@pytest.mark.processes("writers that are killed")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("url", BOTH, indirect=True)
def test_killed_writers_lose_less_than_a_second(url: str, kills: int, tmp_path: Path) -> None:
    LogStore.open(url).close()
    draws, due, noted = random.Random(7), set[str](), set[str]()
    for number in range(kills):
        put = tmp_path / f"put_{number}"
        child = start_fork(write_until_killed, url, put)
        time.sleep(draws.uniform(0.7, 2.0))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        killed_at = time.time()
        child.join()
        lines = put.read_text(encoding="ascii").splitlines() if put.exists() else []
        pairs = [line.split() for line in lines]
        noted |= {key for key, _ in pairs}
        due |= {key for key, at in pairs if float(at) < killed_at - 1.0}
    store = LogStore.open(url)
    with store.reading() as connection:
        rows = connection.exec_driver_sql(
            "SELECT id, probabilities, statistics, label FROM answers"
        ).all()
        waiting = connection.exec_driver_sql(
            "SELECT count(*) FROM labels WHERE is_waiting"
        ).scalar_one()
        if store.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    stored = [row.id for row in rows]
    assert len(stored) == len(set(stored))
    assert due <= set(stored)
    assert len(due) > 20 * kills
    # the last one can be killed between `put` and its note
    assert len(set(stored) - noted) <= kills
    assert all(len(row.probabilities) == 6 and len(row.statistics) == 24 for row in rows)
    assert waiting == 0
    assert count_rows(store, "labels") == count_rows(store, "accepted") == len(stored)


class StoppablePostgres:
    """A server of one's own that can be stopped and started."""

    def __init__(self, uri: str) -> None:
        self.uri = create_database(uri, "log")
        store = LogStore(self.uri)
        with store.engine.connect() as connection:
            self.data = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
        store.close()
        words = (self.data / "postmaster.opts").read_text(encoding="utf-8").split(maxsplit=1)
        self.options = words[1].replace('"', "").strip()

    def command(self, *arguments: str) -> None:
        subprocess.run(
            [str(find_postgres()[-1] / "pg_ctl"), "-D", str(self.data), "-w", *arguments],
            user="postgres" if os.geteuid() == 0 else None,
            cwd=self.data,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def stop(self) -> None:
        self.command("stop", "-m", "immediate")

    def start(self) -> None:
        options = self.options.partition(" -D ")[2].partition(" ")[2] or self.options
        self.command("start", "-o", options, "-l", str(self.data.parent / "log"))


@pytest.fixture
def stoppable() -> Iterator[StoppablePostgres]:
    if not find_postgres():
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with start_postgres() as uri:
        yield StoppablePostgres(uri)


@pytest.mark.processes("a database that is stopped")
@pytest.mark.parametrize("seconds", [2.0, pytest.param(300.0, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_stopped_database_loses_nothing(stoppable: StoppablePostgres, seconds: float) -> None:
    writer = LogWriter(LogStore(stoppable.uri), IDENTITIES)
    writer.put([make_answer() for _ in range(10)])
    assert writer.flush(20)
    stoppable.stop()
    deadline, count, slowest = time.monotonic() + seconds, 10, 0.0
    while time.monotonic() < deadline:
        answer = make_answer()
        start = time.thread_time()
        writer.put(answer)
        slowest = max(slowest, time.thread_time() - start)
        count += 1
        time.sleep(0.005)
    assert slowest < 0.05
    assert writer.state().is_failing
    stoppable.start()
    assert writer.close(30.0) == 0
    assert count_rows(LogStore.open(stoppable.uri), "answers") == count


@pytest.mark.processes("a database that is stopped")
def test_stopped_database_is_reported_in_one_line(
    stoppable: StoppablePostgres, tmp_path: Path
) -> None:
    stoppable.stop()
    env = {"EYEVSAI_LOG": stoppable.uri, SECRET: TEST_SECRET}
    done = invoke(tmp_path, "feedback", "status", MODEL, code=1, **env)
    assert "The inference log postgresql+psycopg://eyevsai@127.0.0.1" in done.stderr
    assert "cannot be used" in done.stderr
    stoppable.start()


MEASURED = r"""
import re, sys
from pathlib import Path
from eyevsai.cli.main import main
try:
    main(sys.argv[1:])
finally:
    # not ru_maxrss: it begins with the size of the process that started this one
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024, file=sys.stderr)
"""


def write_labels(path: Path, ids: list[str], rows: int) -> dict[str, int]:
    """Write a table of labels, many of them repeated, unknown or without an answer; return the
    expected counts.
    """
    counts = dict.fromkeys(("accepted", "repeated", "waiting", "refused"), 0)
    seen = set[str]()
    with open(path, "w", encoding="utf-8") as stream:
        stream.write("id,label\n")
        for row in range(rows):
            key, label = ids[row % len(ids)], CLASSES[row % len(ids) % 3]
            if row % 20 == 0:
                key, result = "0" * 48, "refused"
            elif row % 20 == 1:
                label, result = "a class of another model", "refused"
            elif row % 20 == 2:
                key, result = IDENTITIES.new_id(), "waiting"
            else:
                result = "repeated" if key in seen else "accepted"
                seen.add(key)
            counts[result] += 1
            stream.write(f"{key},{label}\n")
    return counts


@pytest.mark.processes("the memory of an import")
@pytest.mark.parametrize("rows", [30_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("url", BOTH, indirect=True)
@pytest.mark.timeout(1200)
def test_many_labels_at_once(
    url: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, TEST_SECRET)
    monkeypatch.setenv("EYEVSAI_LOG", url)
    store = LogStore.open(url)
    answers = [make_answer(index) for index in range(3_001)]
    store.add_versions([Version(MODEL, 1, CLASSES)])
    store.add_answers(answers)

    def add(count: int) -> tuple[dict[str, int], float, float]:
        """Add labels; return the counts, the seconds and the largest memory in MB."""
        expected = write_labels(tmp_path / "labels.csv", [each.id for each in answers], count)
        command = [sys.executable, "-c", MEASURED, "feedback", "add", MODEL, "labels.csv", "--json"]
        start = time.monotonic()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        seconds = time.monotonic() - start
        assert done.returncode == 1, done.stderr  # rows are refused
        content = json.loads(done.stdout)
        assert content["refused"] == expected["refused"]
        assert len(content["reasons"]) == min(20, content["refused"])
        assert content["results"]["conflicting"] == 0
        expected.pop("refused")
        assert sum(content["results"].values()) == sum(expected.values())
        assert content["results"]["waiting"] == expected["waiting"]
        return content["results"], seconds, float(done.stderr.split()[-1])

    _, seconds, memory = add(10)
    results, more_seconds, more_memory = add(rows)
    print(f"{rows} labels: {more_seconds - seconds:.1f} s, memory +{more_memory - memory:.0f} MB")
    assert results["accepted"] + results["repeated"] > 0.8 * rows
    assert more_memory - memory < 60
    assert count_rows(store, "accepted") == len(answers)
    waiting = results["waiting"]
    status = json.loads(invoke(tmp_path, "feedback", "status", MODEL, "--json").stdout)
    assert (status["labelled"], status["waiting"]) == (len(answers), waiting + 1)

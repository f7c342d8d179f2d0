"""Cost of the inference log; times of reading, labelling, exporting and pruning 1,000,000 answers.

Uses SQLite and, if it is installed, PostgreSQL. Answers have 15 classes, six statistics, a digest
and a hashed key. LOG_ANSWERS=100000 uses a smaller log.

Limits: 50 us of CPU an answer, for its id, the hash of the key, `put` and the writing thread
together, on a quiet machine; 60 s for export and prune of 1,000,000 answers; 10 s and 500 MB
for reading them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.variables import read_number
from eyevsai.core.cores import count_cores

if TYPE_CHECKING:
    from eyevsai.inference_log.ids import Identities
    from eyevsai.inference_log.records import Answer

COUNT = read_number("LOG_ANSWERS", 1_000_000, 1)
MODEL, CLASSES = "vegetables", 15
ANSWERS, WARM_UP, MODEL_S = 3_000, 500, 0.005  # of the cost: 200 answers a second
LIMIT_US, LIMIT_S, LIMIT_READ_S = 50.0, 60.0, 10.0
SECRET = "a secret of the benchmark"
LABELLED = 20  # one of so many answers has labels
CODE = "import sys; from benchmarks.inference_log import {0}; {0}(*sys.argv[1:])"


def _make_values(count: int) -> list[dict[str, Any]]:
    """Return the values of answers, without id, time and key."""
    import numpy as np

    random = np.random.default_rng(0)
    rows = random.dirichlet(np.ones(CLASSES), count).astype(np.float32)
    statistics = random.normal(size=(count, 6)).astype(np.float32)
    return [
        {
            "label": f"class {row.argmax()}",
            "probability": float(row.max()),
            "probabilities": row,
            "statistics": statistics[index],
            "model_ms": 9.5,
            "queue_ms": 0.1,
            "width": 160,
            "height": 120,
            "bytes": 9_500,
            "sha256": index.to_bytes(32),
        }
        for index, row in enumerate(rows)
    ]


def _make_answer(identities: Identities, index: int, values: dict[str, Any]) -> Answer:
    from eyevsai.inference_log.records import Answer

    key_hash = identities.hash_key(MODEL, f"customer {index % 10_000}")
    return Answer(identities.new_id(), time.time(), MODEL, 1, key_hash=key_hash, **values)


def measure_cost(url: str) -> None:
    """Print the CPU time of an answer in the request and in the writing thread.

    Once, answers follow each other. Once, the process computes for as long as a small model between
    two of them: the caches of the processor then have other data, and if other programs run on it,
    all code takes several times as long.
    """
    _measure_cost(url, "answers in a row", 0.0)
    _measure_cost(url, f"{1e3 * MODEL_S:.0f} ms of model between answers", MODEL_S)


def _measure_cost(url: str, name: str, model_s: float) -> None:
    import numpy as np
    from threadpoolctl import threadpool_limits

    from eyevsai.inference_log.ids import Identities
    from eyevsai.inference_log.store import LogStore
    from eyevsai.inference_log.writer import LogWriter

    threadpool_limits(1)  # other threads of the model would count as the writing thread
    identities = Identities(SECRET.encode())
    writer = LogWriter(LogStore.open(url), identities)
    values = _make_values(1_000)
    for index in range(WARM_UP):
        writer.put(_make_answer(identities, index, values[index]))
    writer.flush()
    weights = np.ones((128, 128), dtype=np.float32)
    longest = spent = 0.0
    start, own = time.process_time(), time.thread_time()
    for index in range(ANSWERS):
        deadline = time.thread_time() + model_s
        while time.thread_time() < deadline:
            weights @ weights
        before = time.thread_time()
        writer.put(_make_answer(identities, index, values[index % 1_000]))
        duration = time.thread_time() - before
        spent, longest = spent + duration, max(longest, duration)
    own = time.thread_time() - own
    writer.flush()
    in_thread = time.process_time() - start - own
    writer.close()
    together = 1e6 * (spent + in_thread) / ANSWERS
    mark = "" if together <= LIMIT_US else ", EXCEEDED"
    print(
        f"{name}: {1e6 * spent / ANSWERS:.1f} us in the request, "
        f"{1e6 * in_thread / ANSWERS:.1f} us in the thread, "
        f"{together:.1f} us together (limit {LIMIT_US:.0f}{mark}); "
        f"longest put {1e6 * longest:.0f} us",
        flush=True,
    )


def fill(url: str) -> None:
    """Store the answers and the labels of some of them."""
    from eyevsai.inference_log.ids import Identities
    from eyevsai.inference_log.records import Label, Version
    from eyevsai.inference_log.store import LogStore

    store, identities = LogStore.open(url), Identities(SECRET.encode())
    values = _make_values(1_000)
    store.add_versions([Version(MODEL, 1, tuple(f"class {i}" for i in range(CLASSES)))])
    batch: list[Answer] = []
    for index in range(COUNT):
        batch.append(_make_answer(identities, index, values[index % 1_000]))
        if len(batch) == 10_000:
            store.add_answers(batch)
            ids = [each.id for each in batch[::LABELLED]]
            store.add_labels([Label(key, "class 3", "person:anna") for key in ids])
            batch.clear()
    store.add_answers(batch)
    store.close()


@contextmanager
def timed(name: str, limit_s: float | None = None) -> Iterator[None]:
    """Print the wall time of a block, and how much more memory the process needed."""
    before, start = _peak_mb(), time.perf_counter()
    yield
    limit = "" if limit_s is None else f" (limit {limit_s:.0f} s for 1,000,000)"
    print(
        f"{name}: {time.perf_counter() - start:.1f} s{limit}, memory +{_peak_mb() - before:.0f} MB",
        flush=True,
    )


def _peak_mb() -> float:
    # not ru_maxrss: it begins with the size of the process that started this one
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def read(url: str) -> None:
    """Read all answers by blocks."""
    from eyevsai.inference_log.reading import read_answers
    from eyevsai.inference_log.store import LogStore

    store = LogStore.open(url)
    with timed(f"read {COUNT:,} answers", LIMIT_READ_S):
        count = sum(len(block) for block in read_answers(store, MODEL))
    assert count == COUNT


def write_labels(url: str, folder: str) -> None:
    """Write a table of as many labels as there are answers, in labels.csv.

    Half of the rows name answers; 35 of 100 repeat a label of the last 100 rows; 5 each have an
    invalid id, an unknown class, or an id of an answer that the log does not have.
    """
    from sqlalchemy import select

    from eyevsai.inference_log.ids import Identities
    from eyevsai.inference_log.schema import answers
    from eyevsai.inference_log.store import LogStore

    store, identities = LogStore.open(url), Identities(SECRET.encode())
    with store.reading() as connection, open(Path(folder) / "labels.csv", "w") as stream:
        wanted = select(answers.c.id).order_by(answers.c.seq)
        ids = iter(connection.execution_options(yield_per=10_000).execute(wanted).scalars())
        stream.write("id,label\n")
        recent = list[str]()
        for row in range(COUNT):
            place, label = row % 100, f"class {row % CLASSES}"
            if place < 50:
                recent = [*recent[-49:], f"{next(ids)},{label}\n"]
                line = recent[-1]
            elif place < 85:
                line = recent[place - 50]
            elif place < 90:
                line = f"{'0' * 48},{label}\n"
            elif place < 95:
                line = f"{next(ids)},unknown\n"
            else:
                line = f"{identities.new_id()},{label}\n"
            stream.write(line)


def add_labels(url: str, folder: str) -> None:
    """Add the labels of the table, as `eyevsai feedback add` does."""
    from eyevsai.inference_log.settings import FeedbackSettings
    from eyevsai.workflows.feedback.add import add_labels as add

    os.environ["EYEVSAI_LOG_SECRET"] = SECRET
    settings = FeedbackSettings(log=url, source="rule:benchmark")
    with timed(f"add {COUNT:,} labels"):
        added = add(MODEL, Path(folder) / "labels.csv", settings)
    counts = ", ".join(f"{count:,} {name}" for name, count in added.results.items())
    print(f"{counts}, {added.refused:,} refused", flush=True)
    assert sum(added.results.values()) + added.refused == COUNT


def export_and_prune(url: str, folder: str) -> None:
    """Export all answers, and prune them."""
    from eyevsai.inference_log.export import export_answers
    from eyevsai.inference_log.retention import Retention, prune
    from eyevsai.inference_log.store import LogStore

    store = LogStore.open(url)
    path = Path(folder) / "export.parquet"
    start = time.perf_counter()
    with timed("export"):
        assert export_answers(store, MODEL, path) == COUNT
    with timed("prune"):
        assert sum(each.answers for each in prune(store, Retention(days=0.0))) == COUNT
    total = time.perf_counter() - start
    print(f"export and prune: {total:.1f} s (limit {LIMIT_S:.0f} s for 1,000,000)")
    print(f"log after prune: {store.file_bytes() / 2**20:.1f} MiB")


def _run(function: str, *arguments: str) -> None:
    """Call a function of this module in a process of its own, for its memory."""
    subprocess.run([sys.executable, "-c", CODE.format(function), *arguments], check=True)


def measure(cost_url: str, url: str, folder: Path) -> None:
    """Measure one kind of database, in two empty ones."""
    from eyevsai.inference_log.store import LogStore

    _run("measure_cost", cost_url)
    with timed(f"fill {COUNT:,} answers"):
        _run("fill", url)
    print(f"size: {LogStore.open(url).file_bytes() / COUNT:.0f} bytes an answer")
    _run("read", url)
    _run("write_labels", url, str(folder))
    _run("add_labels", url, str(folder))
    _run("export_and_prune", url, str(folder))


def main() -> None:
    """Measure SQLite and, if it is installed, PostgreSQL."""
    from tests.conftest import create_database, find_postgres, start_postgres

    print(f"{count_cores()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("### SQLite", flush=True)
        measure(f"sqlite:///{folder}/cost.db", f"sqlite:///{folder}/large.db", Path(folder))
        if find_postgres():
            print("### PostgreSQL", flush=True)
            with start_postgres() as uri:
                cost, large = (create_database(uri, name) for name in ("cost", "large"))
                measure(cost, large, Path(folder))

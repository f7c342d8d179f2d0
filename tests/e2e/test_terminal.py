"""What commands say: on a terminal, in a log, with --quiet or --verbose, without colours, to a
shell that completes.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from eyevsai.cli.main import main
from tests.conftest import ROOT, SMALL_NETWORK, Eyevsai, write_images
from tests.invoke import restored_process
from tests.robustness.runs import inject
from tests.screen import hides_cursor, render_screen

TRAIN = ("train", "--data", "small", "--epochs", "2", *SMALL_NETWORK)
COLOR = re.compile(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[9[0-7]m")
BAR = re.compile(r"Checking images[^\r]*?\d+/200[^\r]*?\d/s")


def on_terminal(*arguments: str, code: int = 0, **env: str) -> str:
    """Return all that a command in this process writes to a terminal that it is alone on; check
    its exit code.
    """
    mine, theirs = pty.openpty()
    said = bytearray()

    def listen() -> None:
        with suppress(OSError):  # it has ended
            while part := os.read(mine, 65536):
                said.extend(part)

    listener = threading.Thread(target=listen)
    listener.start()
    environment = {"TERM": "xterm", "COLUMNS": "200", "CI": ""} | env
    with (
        restored_process(Path.cwd(), environment),
        open(theirs, "w") as terminal,
        redirect_stdout(terminal),
        redirect_stderr(terminal),
        pytest.raises(SystemExit) as ended,
    ):
        main(arguments)
    listener.join()
    os.close(mine)
    assert (ended.value.code or 0) == code, said.decode()
    return said.decode()


@pytest.mark.processes("decoding workers, which are forks")
def test_a_terminal_has_bars_with_speed_and_colours_unless_it_wants_none(workplace: Path) -> None:
    check = ("data", "check", str(write_images(workplace / "many", {"a": 100, "b": 100})))
    said = on_terminal(*check)
    assert BAR.search(said)
    assert COLOR.search(said)
    # what is there is not looked at
    plain = on_terminal(*check, NO_COLOR="1", EYEVSAI_CACHE=str(workplace / "other"))
    assert BAR.search(plain)
    assert not COLOR.search(plain)
    quiet = on_terminal(*check, "--quiet", EYEVSAI_CACHE=str(workplace / "third"))
    assert quiet.startswith("200 images in 2 classes")
    assert "\x1b" not in quiet


def test_help_and_errors_obey_no_color(workplace: Path) -> None:
    assert COLOR.search(on_terminal("--help"))
    plain = on_terminal("--help", NO_COLOR="1")
    assert not COLOR.search(plain)
    assert "All commands accept" in " ".join(plain.split())


def test_quiet_says_the_result_alone_and_verbose_how_it_goes_and_where(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    write_images(workplace / "small", {"a": 20, "b": 20})
    quiet = eyevsai(*TRAIN, "--quiet")
    # of an mlflow imported before
    own = [line for line in quiet.stderr.splitlines() if "INFO mlflow" not in line]
    assert own == []
    assert quiet.stdout.startswith("models:/small-deep_v1-standard/1\n")
    said = eyevsai("--verbose", *TRAIN, "--seed", "1").stderr
    first, second = re.findall(r"^\d\d:\d\d:\d\d (epoch \d of .*)", said, re.MULTILINE)
    figures = (
        r"valid accuracy [01]\.\d{4} \(.*\), loss \d+\.\d{4}; train accuracy "
        r"[01]\.\d{4}, loss "
        r"\d+\.\d{4}"
    )
    assert re.fullmatch(rf"epoch 1 of 2  {figures}, [\d,]+ images/s, about \d+ s left", first)
    assert re.fullmatch(rf"epoch 2 of 2  {figures}, [\d,]+ images/s", second)
    assert "(the best so far)" in first
    assert "(the best so far)" in second or "in epoch 1)" in second
    assert f"The store is sqlite:///{workplace}/mlflow.db" in said
    assert re.search(r"^\d\d:\d\d:\d\d Checkpoint of .* MB in ", said, re.MULTILINE)
    assert "grad_accum_steps 1" in said
    assert "mutually exclusive" in eyevsai("list", "--quiet", "--verbose", code=2).stderr


@pytest.fixture
def drawn_often(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workplace with images, in which live tables are drawn after each step."""
    monkeypatch.setattr("eyevsai.workflows.train.epoch_display.REFRESH_EVERY_S", 0.0)
    write_images(workplace / "small", {"a": 20, "b": 20})
    return workplace


def test_training_on_a_terminal_shows_a_table_of_epochs(drawn_often: Path) -> None:
    said = on_terminal(*TRAIN, "--epochs", "3", "--tuned", "never", NO_COLOR="1")
    assert not COLOR.search(said)
    assert re.search(r"Epoch 2 of 3 ━.* +\d+/\d+ +[\d,.]+/s", said)
    assert re.search(r"about \d+ s left", said)
    assert not hides_cursor(said)
    screen = render_screen(said)
    header = next(index for index, line in enumerate(screen) if line.startswith("epoch  train"))
    assert screen[header].split()[-2:] == ["images/s", "lr"]
    epochs = [line.split() for line in screen[header + 1 : header + 4]]
    assert [row[-7] for row in epochs] == ["1", "2", "3"]
    assert [row[0] for row in epochs].count("*") == 1
    spark = r"valid accuracy [▁▂▃▄▅▆▇█]{3} [01]\.\d{4} to [01]\.\d{4}; \* best epoch"
    assert re.fullmatch(spark, screen[header + 4])
    assert "models:/small-deep_v1-standard/1" in screen
    # once: neither lines of epochs nor bars stay
    assert not any(re.search(r"epoch \d of 3|Epoch \d of 3|Registered", line) for line in screen)
    (log,) = (drawn_often / "mlruns").rglob("training.log")
    assert "epoch 3 of 3  valid accuracy" in log.read_text()


def test_interrupted_training_leaves_the_terminal_usable(
    drawn_often: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, "stop:8")
    said = on_terminal(*TRAIN, "--epochs", "4", "--tuned", "never", code=143)
    assert "\x1b[?25l" in said
    assert not hides_cursor(said)
    screen = render_screen(said)
    header = next(index for index, line in enumerate(screen) if line.startswith("epoch  train"))
    assert screen[header + 1].split()[-7] == "1"
    assert screen[-2].startswith("Interrupted. Resume with: eyevsai train --resume ")


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"CI": "true"}])
def test_terminals_that_do_not_redraw_get_lines(drawn_often: Path, env: dict[str, str]) -> None:
    said = on_terminal(*TRAIN, "--tuned", "never", **env)
    assert len(re.findall(r"^epoch \d of 2  valid accuracy", said, re.MULTILINE)) == 2
    assert "\x1b[?25l" not in said


def test_help_lists_first_what_people_change_first(eyevsai: Eyevsai) -> None:
    for command, options in {
        "train": "data dataset model variation minutes epochs lr batch-size image-size seed",
        "tune": "data dataset model variation n-trials minutes epochs lr batch-size image-size "
        "seed",
        "train --model shallow": "data dataset model variation image-size seed",
        "train --model transfer": "data dataset model variation minutes fine-tune-epochs lr "
        "fine-tune-lr batch-size image-size seed",
        "evaluate": "data class-map target-precision",
        "export": "format output package prune",
    }.items():
        said = eyevsai(*command.split(), "--help", COLUMNS="200").stdout
        first = said[said.index("\nMost used:\n") :]
        first = first[: first.index("\n\n")]
        assert re.findall(r"^  --(\S+)", first, re.MULTILINE) == options.split(), command
        sections = re.findall(r"^(\w[\w -]*):$", said, re.MULTILINE)
        assert sections[0 if "Arguments" not in sections else 1] == "Most used", command
        # each once
        flags = re.findall(r"^  (--\S+)", said, re.MULTILINE)
        assert len(set(flags)) == len(flags), command
        assert max(map(len, said.splitlines())) <= 100, command


@pytest.mark.parametrize("command", ["train", "install", "registry log", "data check", "train-all"])
def test_every_command_shows_the_switches_of_all(eyevsai: Eyevsai, command: str) -> None:
    said = eyevsai(*command.split(), "--help").stdout
    for switch in ("--quiet", "--verbose", "--debug"):
        assert switch in said


def complete(eyevsai: Eyevsai, line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    shell = {
        "_EYEVSAI_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    return eyevsai(**shell).stdout.split()


def test_a_shell_completes_commands_flags_and_values(eyevsai: Eyevsai, workplace: Path) -> None:
    write_images(workplace / "root" / "beans", {"a": 1})
    for line, offered in {
        "eyevsai registry p": ["pin"],
        "eyevsai train --model ": ["deep_v1", "deep_v2", "shallow", "transfer"],
        "eyevsai train --model deep_v2 --variation ": ["resnet", "densenet", "hybrid"],
        "eyevsai train --model deep_v2 --variation resnet --attention-r": ["--attention-reduction"],
        "eyevsai train --optimizer ada": ["adamw", "adam"],
        f"eyevsai train --data-dir {workplace}/root --dataset ": [
            "digits",
            "beans",
            "combined_all",
        ],
        "eyevsai train-all --models shallow,deep_v1/": [
            "shallow,deep_v1/standard",
            "shallow,deep_v1/residual",
        ],
        "eyevsai export --format onnx,openv": ["onnx,openvino", "onnx,openvino-bf16"],
        "eyevsai install post": ["postgres"],
        "eyevsai ui --q": ["--quiet"],
        "eyevsai train --model nothing --variation ": [],
    }.items():
        assert complete(eyevsai, line) == offered, line


def test_completing_imports_nothing_heavy(workplace: Path) -> None:
    code = "import sys\nfrom eyevsai.cli.main import main\ntry:\n    main([])\nfinally:\n"
    code += (
        "    heavy = {'torch', 'mlflow', 'numpy', 'optuna'} & set(sys.modules)\n    assert not "
        "heavy, heavy"
    )
    shell = {
        "_EYEVSAI_COMPLETE": "complete_bash",
        "COMP_WORDS": "eyevsai train --dataset ",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | shell | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout

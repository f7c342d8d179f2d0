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

TRAIN = ("train", "--data", "small", "--epochs", "2", *SMALL_NETWORK)
COLOR = re.compile(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[9[0-7]m")
BAR = re.compile(r"Checking images[^\r]*?\d+/200[^\r]*?\d/s")


def on_terminal(*arguments: str, **env: str) -> str:
    """Return all that a command in this process writes to a terminal that it is alone on."""
    mine, theirs = pty.openpty()
    said = bytearray()

    def listen() -> None:
        with suppress(OSError):  # it has ended
            while part := os.read(mine, 65536):
                said.extend(part)

    listener = threading.Thread(target=listen)
    listener.start()
    environment = {"TERM": "xterm", "COLUMNS": "200"} | env
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
    assert not ended.value.code, said.decode()
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

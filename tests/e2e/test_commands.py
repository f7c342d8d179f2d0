from __future__ import annotations

import json
import shlex
import sqlite3
from pathlib import Path

import pytest

from eyevsai.cli.main import main
from eyevsai.core.errors import UserError
from eyevsai.models.factory import FAMILIES, get_family
from tests.conftest import Eyevsai, write_images

ALL = [(family, name) for family in FAMILIES for name in get_family(family).variations]

# the others of their kind are described as they are
LARGE = ("vgg16", "resnet101", "densenet121", "efficientnet_b1")


def test_list_describes_models_and_datasets(eyevsai: Eyevsai, tmp_path: Path) -> None:
    write_images(tmp_path / "root" / "beans", {"a": 3, "b": 3})
    write_images(tmp_path / "root" / "beans_of_all_the_world", {"a": 3, "b": 3})
    root = ("--data-dir", str(tmp_path / "root"))
    lines = eyevsai("list", *root).stdout.splitlines()
    # none touches what is said of it
    names = {line.split()[0] for line in lines if line.startswith("  ")}
    assert names >= {"beans", "beans_of_all_the_world", *(variation for _, variation in ALL)}
    inventory = json.loads(eyevsai("list", "--json", *root).stdout)
    assert list(inventory["models"]["deep_v1"]["variations"]) == ["standard", "residual"]
    assert list(inventory["datasets"]) == [
        "digits",
        "beans",
        "beans_of_all_the_world",
        "combined_all",
    ]


def test_doctor_has_nothing_to_mend(eyevsai: Eyevsai) -> None:
    assert "FAIL" not in eyevsai("doctor").stdout


def test_doctor_says_what_to_mend(eyevsai: Eyevsai, workplace: Path) -> None:
    with sqlite3.connect(workplace / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'ffff00001111'")
    database.close()
    findings = {
        finding["subject"]: finding
        for finding in json.loads(eyevsai("doctor", "--json", code=1).stdout)
    }
    assert set(findings) == {"python", "packages", "compute", "disk", "data", "store"}
    assert not findings["store"]["ok"]
    assert "newer MLflow" in findings["store"]["text"]


def test_doctor_creates_the_store_only_when_asked(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "mlflow.db").unlink()
    assert "doctor --init" in eyevsai("doctor").stdout
    assert not (workplace / "mlflow.db").exists()
    eyevsai("doctor", "--init")
    assert (workplace / "mlflow.db").stat().st_size > 100_000


def test_an_unknown_command_names_the_nearest(eyevsai: Eyevsai) -> None:
    assert "'train'" in eyevsai("trian", code=2).stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("trian", "There is no eyevsai command 'trian'. Did you mean 'train'? Known: train, tune"),
        (
            "registry statsu",
            "There is no registry command 'statsu'. Did you mean 'status'? Known: status, log",
        ),
        ("--bogus list", "There is no option --bogus of `eyevsai`."),
        ("list --jsn", "There is no option --jsn of `eyevsai list`. Did you mean --json?"),
        ("tune --n-trial 3", "There is no option --n-trial. Did you mean --n-trials?"),
        ("tune extra", "Unexpected argument 'extra'. See `eyevsai tune --help`."),
        ("list --json=3", "--json takes no value. See `eyevsai list --help`."),
        ("train --epochs", "--epochs requires a value: Passes over the"),
        (
            "registry pin digits",
            "`eyevsai registry pin` requires VERSION: Number of the version. See",
        ),
        (
            "registry best",
            "`eyevsai registry best` requires --dataset: Dataset that the models were trained "
            "on. See",
        ),
        ("compare", "`eyevsai compare` requires MODELS: Run ids or model URIs"),
        (
            "compare one",
            "Cannot compare 'one': at least two different runs or model URIs are required.",
        ),
        (
            "evaluate abc",
            "Unexpected argument 'abc'. `eyevsai evaluate` takes options only. See `eyevsai "
            "evaluate "
            "--help`.",
        ),
        (
            "registry log a b",
            "Unexpected argument 'b'. `eyevsai registry log` takes NAME and options. See",
        ),
        ("registry pin digits one", "VERSION must be a whole number, not 'one'."),
        ("registry pin digits 0", "VERSION 0 is not allowed. Use a value from 1 to 1000000000."),
        ("registry import ''", "FILE is empty. Set a value, or omit it."),
        ("predict m i --top-k many", "--top-k must be a whole number, not 'many'."),
        ("predict m i --top-k 0", "--top-k 0 is not allowed. Use a value from 1 to 1000000."),
        (
            "predict m i --threshold 2",
            "--threshold 2.0 is not allowed. Use a value from 0 to 1.",
        ),
        (
            "predict m i --threshold nan",
            "--threshold nan is not allowed. Use a value from 0 to 1.",
        ),
        (
            "describe --num-classes 1",
            "--num-classes 1 is not allowed. Use a value from 2 to 1000000.",
        ),
        ("describe --num-classes x", "--num-classes must be a whole number, not 'x'."),
        ("ui --port 99999", "--port 99999 is not allowed. Use a value from 1 to 65535."),
        ("data check ''", "Name a folder or --dataset, and not both."),
        (
            "data check one --dataset two",
            "Name a folder or --dataset, and not both.",
        ),
        ("data check --dataset digits --page ''", "--page is empty."),
        (
            "data download pets --dataset vegetables",
            "'pets' and --dataset 'vegetables' contradict each other",
        ),
        ("promote a --name b", "'a' and --name 'b' contradict each other. Omit one of them."),
        (
            "promote digits",
            "promote requires a version. Use: eyevsai promote digits --version NUMBER. `eyevsai "
            "registry",
        ),
        (
            "predict . i",
            ". is not a model folder: it contains no MLmodel. Use the folder of a model or of an "
            "export, models:/",
        ),
        ("cleanup --dry-run maybe", "--dry-run must be true or false, not 'maybe'."),
        ("--quiet list --verbose", "--quiet and --verbose are mutually exclusive. Use only one."),
    ],
)
def test_a_mistake_is_told_by_its_value_and_what_to_do(
    eyevsai: Eyevsai, typed: str, said: str
) -> None:
    done = eyevsai(*shlex.split(typed), code=2)
    assert done.stderr.startswith(f"Error: {said}")
    assert done.stderr.count("\n") == 1


def test_switches_stand_before_and_behind_a_command(eyevsai: Eyevsai) -> None:
    for typed in (
        "--debug train --epochs 0",
        "train --epochs 0 --debug",
        "train --debug true --epochs 0",
        "--debug true train-all --epochs 0",
        "data --debug check none",
        "data check --nonsense --debug",
        "--debug nonsense",
    ):
        with pytest.raises(UserError):
            main(typed.split())
    for typed in (
        "train --debug false --epochs 0",
        "--debug false data check none",
        "train --epochs 0",
    ):
        assert eyevsai(*typed.split(), code=2).stderr.startswith("Error: ")
    assert "Commands" in eyevsai("--quiet", code=2).stdout


@pytest.mark.parametrize(
    ("family", "variation"),
    [pytest.param(*each, marks=[pytest.mark.slow] * (each[1] in LARGE)) for each in ALL],
)
def test_describe_says_what_a_model_is_made_of(
    eyevsai: Eyevsai, family: str, variation: str
) -> None:
    command = ("describe", "--model", family, "--variation", variation, "--num-classes", "7")
    card = eyevsai(*command).stdout
    about = get_family(family).variations[variation]
    assert about.papers
    for text in (about.technical, about.simple, *about.papers, "probabilities of 7 classes"):
        assert text in card
    described = json.loads(eyevsai(*command, "--json").stdout)
    assert described["layers"]
    if described["flops"] is not None:
        assert f"{described['parameters']:,}" in card
        smaller = json.loads(eyevsai(*command, "--json", "--image-size", "48").stdout)
        assert smaller["flops"] < described["flops"]
        assert smaller["parameters"] == described["parameters"]


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_each_variation_is_explained(family: str, variation: str) -> None:
    about = get_family(family).variations[variation]
    assert about.papers
    assert about.technical
    assert about.simple


def test_operations_are_counted_as_by_hand(eyevsai: Eyevsai) -> None:
    given = ("--image-size", "32", "--width", "4", "--head-units", "0", "--num-classes", "5")
    described = json.loads(eyevsai("describe", "--model", "deep_v1", *given, "--json").stdout)
    widths, sides = [3, 4, 8, 16, 32], [32, 16, 8, 4]
    convolutions = [
        9 * a * b * side**2 for a, b, side in zip(widths, widths[1:], sides, strict=False)
    ]
    assert described["flops"] == 2 * (sum(convolutions) + 32 * 5)

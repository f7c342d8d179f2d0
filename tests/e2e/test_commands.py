from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
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
        (
            "tune extra",
            "Unexpected argument 'extra'. It is not a folder of images.",
        ),
        ("resume", "There is no eyevsai command 'resume'. Use: eyevsai train --resume RUN_ID"),
        ("fit", "There is no eyevsai command 'fit'. Use: eyevsai train."),
        ("val", "There is no eyevsai command 'val'. Use: eyevsai evaluate NAME/VERSION."),
        ("status", "There is no eyevsai command 'status'. Use: eyevsai registry status."),
        ("data train", "There is no data command 'train'. Use: eyevsai train."),
        ("--bogus list", "There is no option --bogus of `eyevsai`. See `eyevsai --help`."),
        ("train --num-classes 3", "There is no option --num-classes. Classes are the names of"),
        ("train --lr0 1", "There is no option --lr0. Use --lr."),
        ("train --imgsz 96", "There is no option --imgsz. Use --image-size."),
        ("tune --batch 8", "There is no option --batch. Use --batch-size."),
        ("train --workers 3", "There is no option --workers. Images are decoded in parallel"),
        ("train --pretrained", "There is no option --pretrained. Models of the family transfer"),
        ("predict --source x", "There is no option --source of `eyevsai predict`. Name the model"),
        (
            "data check --source x",
            "There is no option --source of `eyevsai data check`. Use --",
        ),
        ("train-all --model deep_v1", "There is no option --model of `eyevsai train-all`. Use --m"),
        (
            "evaluate --epochs 3",
            "There is no option --epochs of `eyevsai evaluate`. It is an",
        ),
        (
            "train --resume --epochs 3",
            "Unexpected argument '3'. --resume requires a value, and",
        ),
        ("train digits", "Unexpected argument 'digits'. For a dataset: --dataset digits. See"),
        (
            "train resnet50",
            "Unexpected argument 'resnet50'. For a model: --model transfer/resnet50",
        ),
        ("train . epochs=3", "Unexpected argument 'epochs=3'. Use --epochs 3. See"),
        ("train . imgsz=64", "Unexpected argument 'imgsz=64'. Use --image-size. See"),
        ("train . -epochs 3", "Unexpected argument '-epochs'. Use --epochs. See"),
        ("train . -b 16", "Unexpected argument '-b'. Use --batch-size. See"),
        ("train -h", "Unexpected argument '-h'. Options begin with two hyphens. See"),
        ("tune \u2014epochs=3", "Unexpected argument '\u2014epochs=3'. Use --epochs 3. See"),
        ("train . shallow", "Unexpected argument 'shallow'. For a model: --model shallow. See"),
        (
            "train --max-depth 5",
            "--max-depth is a setting of shallow (rf_hog_lbp), not of deep_v1. Use --model "
            "shallow/rf_hog_lbp, or omit it.",
        ),
        (
            "train --model shallow --max-depth 5",
            "--max-depth is a setting of shallow (rf_hog_lbp), not of the selected variation. "
            "Use --model shallow/rf_hog_lbp, or omit it.",
        ),
        ("registry list", "There is no registry command 'list'. Use: eyevsai registry status."),
        ("data validate x", "There is no data command 'validate'. Use: eyevsai data check"),
        ("export a/1 --int8", "There is no option --int8 of `eyevsai export`. Use --format onnx-"),
        (
            "evaluate a/1 --model-uri b/1",
            "'a/1' and --model-uri 'b/1' contradict each other. Omit one of them.",
        ),
        ("train transfer/vgg16", "Unexpected argument 'transfer/vgg16'. For a model: --model tran"),
        (
            "train --device gpu",
            "--device 'gpu' is not allowed. Use one of auto, cpu, cuda, mps.",
        ),
        (
            "train --device cuda:1",
            "--device 'cuda:1' is not allowed. Use one of auto, cpu, cuda, mps. Set "
            "CUDA_VISIBLE_DEVICES=1, and use --device cuda.",
        ),
        (
            "train --precision bf16",
            "--precision 'bf16' is not allowed. Use one of auto, float32, bfloat16, float16. Use "
            "--precision bfloat16.",
        ),
        (
            "train --optimizer adan",
            "--optimizer 'adan' is not allowed. Use one of adamw, adam, sgd, muon. Did you mean "
            "adam?",
        ),
        (
            "train --model resnet50",
            "There is no model 'resnet50'. Did you mean 'transfer/r",
        ),
        ("describe resnet50", "There is no model 'resnet50'. Did you mean 'transfer/resnet50'?"),
        ("list trasnfer", "There is no model 'trasnfer'. Did you mean 'transfer'?"),
        ("report --models svm", "There is no model 'svm'. Did you mean 'shallow/svm_hog_lbp'?"),
        (
            "train --model deep_v1 --variation resnet50",
            "'resnet50' is a variation of transfer, not of deep_v1. Use --model transfer/resnet50.",
        ),
        (
            "train --variation transfer/resnet50",
            "--variation transfer/resnet50 contains a family. Use --model transfer/resnet50.",
        ),
        ("data check one --data two", "'one' and --data 'two' contradict each other."),
        ("list --json=3", "--json takes no value. See `eyevsai list --help`."),
        ("train --epochs", "--epochs requires a value: Passes over the"),
        (
            "registry pin digits",
            "There is no registered model 'digits'. Registered models: none;",
        ),
        (
            "registry best",
            "`eyevsai registry best` requires --dataset: Dataset that the models were trained "
            "on. See",
        ),
        ("compare", "`eyevsai compare` requires MODELS: NAME/VERSION, NAME@ALIAS"),
        (
            "compare one",
            "Cannot compare 'one': at least two different runs or versions are required.",
        ),
        (
            "evaluate abc",
            "There is no registered model 'abc'. Registered models: none;",
        ),
        (
            "registry log a b",
            "Unexpected argument 'b'. `eyevsai registry log` takes MODEL and options. See",
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
            "promote requires a version. Use: eyevsai promote digits/VERSION. `eyevsai registry",
        ),
        (
            "predict . mlflow.db",
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


def test_a_dataset_and_a_folder_are_not_confused(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "birds").mkdir()
    text = eyevsai("train", "--dataset", "birds", code=2).stderr
    assert "For the folder: --data birds." in text
    text = eyevsai("data", "check", "digits", code=2).stderr
    assert "--dataset digits is a known dataset." in text


def test_a_flag_takes_a_truth_value(eyevsai: Eyevsai, tmp_path: Path) -> None:
    cache = ("data", "cache", "--cache-dir", str(tmp_path / "cache"))
    for words in (("--clear", "true"), ("--clear=yes",), ("--clear",)):
        assert eyevsai(*cache, *words).stdout.startswith("freed 0.0 MB")
    for words in (("--clear", "false"), ("--clear=0",)):
        assert eyevsai(*cache, *words).stdout.startswith("0.0 MB")
    assert "<bool>" not in eyevsai("data", "cache", "--help").stdout


def test_a_model_may_be_named_in_one_word(eyevsai: Eyevsai) -> None:
    listed = json.loads(eyevsai("list", "shallow,transfer/resnet50", "--json").stdout)["models"]
    assert {name: len(about["variations"]) for name, about in listed.items()} == {
        "shallow": 2,
        "transfer": 1,
    }
    words = ("--image-size", "32", "--width", "4", "--json")
    card, same = (
        eyevsai("describe", *model, *words).stdout
        for model in (("deep_v1/residual",), ("--model", "deep_v1/residual"))
    )
    assert card == same
    assert json.loads(card)["variation"] == "residual"


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
    given = ("--image-size", "32", "--width", "4", "--convolutions", "1", "--num-classes", "5")
    described = json.loads(eyevsai("describe", "--model", "deep_v1", *given, "--json").stdout)
    widths, sides = [3, 4, 8, 16, 32], [32, 16, 8, 4]
    convolutions = [
        9 * a * b * side**2 for a, b, side in zip(widths, widths[1:], sides, strict=False)
    ]
    assert described["flops"] == 2 * (sum(convolutions) + 32 * 5)


@pytest.mark.processes("what a process prints after Python has ended")
def test_the_exit_collects_no_objects_and_prints_nothing() -> None:
    code = (
        "import atexit, gc, sys; from eyevsai.cli.main import TRITON, freeze_objects\n"
        "sys.modules[TRITON] = sys\n"
        "atexit.register(lambda: __import__('os').write(2, b'a leak'))\n"  # after the next one
        "atexit.register(lambda: (freeze_objects(), print(gc.get_freeze_count() > 0)))\n"
        "print('an error', file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.stdout, process.stderr) == ("True\n", "an error\n")

"""train, as a person types it: with `mlflow run` and with `eyevsai`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.core.errors import UserError
from tests.conftest import ROOT, Eyevsai, experiments
from tests.e2e.conftest import QUICK, MlflowRun

DIVERGE = (
    "--head-units",  # without normalisation after it
    "256",
    "--convolutions",  # two in each block do not diverge
    "1",
    "--optimizer",
    "sgd",
    "--lr",
    "1",
    "--clip-grad",
    "0",
    "--weight-decay",
    "1",
    "--momentum",
    "0.999",
    "--warmup-epochs",
    "0",
    "--batch-size",  # so many steps that the first epoch diverges, not its evaluation
    "8",
    "--precision",
    "float32",
)
TINY = ("--epochs", "1", "--width", "8", "--threads", "1")


def only_run():  # type: ignore[no-untyped-def]
    (run,) = MlflowClient().search_runs(experiments())
    return run


def artifacts(run_id: str, path: str | None = None) -> set[str]:
    return {Path(entry.path).name for entry in MlflowClient().list_artifacts(run_id, path)}


@pytest.mark.processes("`mlflow run`, and a process in which nothing can be unpickled")
def test_mlflow_run_trains_logs_and_registers(mlflow_run: MlflowRun, project: Path) -> None:
    done = mlflow_run(
        "train", "-P", "model=deep_v1", *QUICK, "-P", "flip=false", "-P", "label_smoothing=1e-1"
    )
    assert "models:/digits-deep_v1-standard/1" in done.stdout
    run, client = only_run(), MlflowClient()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits-deep_v1-standard-1"
    assert run.data.params["label_smoothing"] == "1e-1"  # as it was given: MLflow logged it first
    assert run.data.params["image_size"] == "32"
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    assert (config["label_smoothing"], config["flip"], config["variation"]) == (
        0.1,
        False,
        "standard",
    )
    # `config` is the source of settings, not a setting; MLflow logs each parameter of MLproject
    assert set(run.data.params) < {*config, "config"}
    assert len(run.data.params) <= 30
    acting = {"model", "variation", "dataset", "seed", "lr", "optimizer", "momentum", "width"}
    assert acting <= set(run.data.params)
    # neither folders, nor what has no effect with this optimizer and schedule
    assert not {"cache_dir", "state_dir", "decay_rate"} & set(run.data.params)
    best = run.data.metrics["best_valid_accuracy"]
    assert f"Valid accuracy {best:.4f} in epoch " in run.data.tags["mlflow.note.content"]
    for name in (
        "train/loss",
        "train/accuracy",
        "valid/loss",
        "valid/accuracy",
        "lr",
        "images_per_s",
    ):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [1, 2]
    assert {
        "best_valid_accuracy",
        "best_valid_top5_accuracy",
        "best_valid_loss",
        "best_epoch",
    } <= set(run.data.metrics)
    assert run.data.metrics["best_valid_accuracy"] == max(
        point.value for point in client.get_metric_history(run.info.run_id, "valid/accuracy")
    )
    tags = run.data.tags
    assert (tags["eyevsai.job"], tags["model"], tags["variation"], tags["dataset"]) == (
        "train",
        "deep_v1",
        "standard",
        "digits",
    )
    card = Path(client.download_artifacts(run.info.run_id, "model_card.md")).read_text()
    for text in (
        "# Standard CNN",
        "`digits`: 1259 train",
        "| accuracy | 0.",
        "Not evaluated on the test split yet",
        "| `optimizer` | muon |",
        "| date of the training | 20",
        "## Limits",
        "## Licence",
        "LeCun et al. 1998",
    ):
        assert text in card
    assert card.index("## Layers") > card.index("## Papers") > card.index("## Limits")
    expected = {
        "config.json",
        "environment.json",
        "classes.json",
        "split.tsv",
        "training.log",
        "plots",
    }
    assert expected <= artifacts(run.info.run_id)
    assert artifacts(run.info.run_id, "plots") == {
        "curves.png",
        "confusion_matrix.png",
        "top_losses.png",
    }
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "digits"
    assert "system/cpu_utilization_percentage" in run.data.metrics
    version = client.get_model_version("digits-deep_v1-standard", "1")
    assert version.run_id == run.info.run_id
    assert set(version.tags) >= {
        "run_id",
        "eyevsai.dataset_digest",
        "accuracy",
        "parameters",
        "image_size",
    }
    assert "Valid accuracy " in version.description
    assert "on `digits`, 10 classes. Not evaluated" in version.description
    page = f"#/experiments/0/runs/{run.info.run_id}?workflowType=machine_learning"
    assert f"({page})" in version.description
    about = client.get_registered_model("digits-deep_v1-standard").description
    assert "Classifier of `digits`, 10 classes: `0, 1, 2, 3, 4, 5, 6, 7 and 2 more`." in about
    assert f"see it with: eyevsai ui\nhttp://127.0.0.1:5000/{page}" in done.stdout
    load_in_a_fresh_process(project)


@pytest.mark.slow
def test_mlflow_run_trains_deep_v2_with_what_keeps_it_from_learning_by_heart(
    mlflow_run: MlflowRun, project: Path
) -> None:
    given = {
        "mixup": "0.2",
        "cutmix": "1.0",
        "ema_decay": "0.9",
        "layers": "1,2,1",
        "use_se": "false",
    }
    name = "a'b\"; touch injected; $(touch injected) `touch injected`\n../c"  # data, all of it
    flags = [word for name, value in given.items() for word in ("-P", f"{name}={value}")]
    done = mlflow_run(
        "train",
        "-P",
        f"run_name={name}",
        "-P",
        "model=deep_v2",
        "-P",
        "variation=hybrid",
        *flags,
        *QUICK,
    )
    assert "models:/digits-deep_v2-hybrid/1" in done.stdout
    run = only_run()
    assert run.info.status == "FINISHED"
    assert {name: run.data.params[name] for name in given} == given
    assert run.info.run_name == name
    assert not list(project.rglob("injected"))
    assert run.data.metrics["best_valid_accuracy"] > 0.3  # one in ten by chance
    card = Path(MlflowClient().download_artifacts(run.info.run_id, "model_card.md")).read_text()
    for text in (
        "# Hybrid network",
        "| accuracy | 0.",
        "## Limits",
        "Vaswani et al. 2017",
        "Huang et al. 2017",
    ):
        assert text in card


def load_in_a_fresh_process(project: Path) -> None:
    """Loads the version both ways with every door of pickle shut, and compares them."""
    code = """
import pickle, sys
def shut(*a, **k): raise SystemExit("something was unpickled")
import torch, pandas, mlflow.pyfunc, sklearn
pickle.load = pickle.loads = pickle.Unpickler = shut
torch.load = shut
import eyevsai
uri = "models:/digits-deep_v1-standard/1"
files = sys.argv[1:]
predictions = eyevsai.load(uri).predict_batch(files)
table = mlflow.pyfunc.load_model(uri).predict(pandas.DataFrame({"image": files}))
assert [p.label for p in predictions] == list(table["label"])
assert [p.probability for p in predictions] == list(table["probability"])
assert set(table["probabilities"][0]) == set("0123456789")
"""
    files = sorted(Path(os.environ["EYEVSAI_CACHE"]).glob("digits/*/*.png"))[::200]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_failed_mlflow_run_ends_failed_and_registers_nothing(
    mlflow_run: MlflowRun, project: Path
) -> None:
    extras = [
        part
        for name, value in zip(DIVERGE[::2], DIVERGE[1::2], strict=True)
        for part in ("-P", f"{name[2:].replace('-', '_')}={value}")
    ]
    done = mlflow_run("train", *extras, code=1)
    assert "NaN" in done.stderr
    assert "Traceback" not in done.stderr.split("mlflow.exceptions")[0]
    assert only_run().info.status == "FAILED"
    assert not MlflowClient().search_registered_models()
    assert "training.log" in artifacts(only_run().info.run_id)


@pytest.mark.slow
def test_uv_makes_the_environment_from_conda_yaml(mlflow_run: MlflowRun, project: Path) -> None:
    """The same file, parsed by MLflow and built by uv, with the heavy packages lent by this
    environment.
    """
    light = ("typer", "rich", "filelock")
    conda = (project / "conda.yaml").read_text()
    head, _, pins = conda.partition("  - pip:\n")
    kept = [
        line
        for line in pins.splitlines(keepends=True)
        if line.strip().strip('-" ').startswith(light)
    ]
    assert len(kept) == len(light)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    head = head.replace("python=3.11", f"python={version}")
    (project / "conda.yaml").write_text(head + "  - pip:\n" + "".join(kept))
    lent = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    done = mlflow_run(
        "train",
        *QUICK,
        manager="uv",
        PYTHONPATH=lent,
        UV_PYTHON=sys.executable,
        MLFLOW_ENV_ROOT=str(project / "envs"),
    )
    assert "models:/digits-deep_v1-standard/1" in done.stdout
    assert "digits" in only_run().info.run_name


@pytest.mark.processes("images are decoded in forks")
def test_a_folder_of_photographs(eyevsai: Eyevsai, photos: Path) -> None:
    done = eyevsai(
        "train", "--dataset", "pets", *TINY, "--image-size", "32", EYEVSAI_DATA=str(photos)
    )
    assert "models:/pets-deep_v1-standard/1" in done.stdout
    assert only_run().data.tags["dataset"] == "pets"


def test_any_folder_and_the_other_variation(eyevsai: Eyevsai, stripes: Path) -> None:
    eyevsai(
        "train",
        "--data",
        str(stripes),
        "--variation",
        "residual",
        *TINY,
        "--batch-size",
        "16",
        "--image_size=32",
    )
    assert (
        MlflowClient().get_model_version("stripes-deep_v1-residual", "1").tags["image_size"] == "32"
    )


@pytest.mark.requirement(12)
@pytest.mark.usefixtures("decoded_digits")
def test_a_nan_ends_the_run_failed(eyevsai: Eyevsai) -> None:
    done = eyevsai("train", *DIVERGE, "--threads", "1", code=1)
    assert "The weights were not updated" in done.stderr
    assert "Traceback" not in done.stderr
    assert only_run().info.status == "FAILED"
    assert not MlflowClient().search_registered_models()


@pytest.mark.slow
@pytest.mark.requirement(5)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_ends_killed(workplace: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "eyevsai", "train", "--epochs", "1000", "--patience", "0"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, cwd=workplace, env=env, stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("epoch 1 "):
            break
    began = time.monotonic()
    job.send_signal(number)
    rest = job.communicate(timeout=60)[1]
    assert job.returncode == code, rest
    assert time.monotonic() - began < 10
    assert "Traceback" not in rest
    assert only_run().info.status == "KILLED"
    assert not MlflowClient().search_registered_models()


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="no /proc/stat")
def test_train_names_the_threads_that_fit_beside_other_processes(
    eyevsai: Eyevsai, stripes: Path
) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core")
    os.sched_setaffinity(0, sorted(allowed)[:2])
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        one, two = (
            eyevsai("train", "--data", str(stripes), *TINY[:-1], threads).stderr
            for threads in ("1", "2")
        )
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, allowed)
    assert "Other processes use" not in one
    assert re.search(r"Other processes use \d\.\d of 2 CPU cores\..* with --threads 1, ", two)


def test_a_small_split_and_a_short_run_limit_settings(eyevsai: Eyevsai, stripes: Path) -> None:
    small = ("--data", str(stripes), "--epochs", "1", "--width", "4", "--image-size", "32")
    done = eyevsai("train", *small, "--threads", "1", "--batch-size", "64")
    assert "--batch-size 64 is larger than the train split of 42 images: using 42." in done.stderr
    assert "--warmup-epochs 2 is longer than a fifth of the 1 epoch: using 0.2." in done.stderr
    run = only_run()
    assert (run.data.params["batch_size"], run.data.params["warmup_epochs"]) == ("42", "0.2")
    assert "No random crops, and predictions of the whole short side" in done.stderr
    limits = (
        "batch_size 64 -> 42, warmup_epochs 2 -> 0.2, crop_scale 0.35 -> 1, crop_margin 1.15 -> 1"
    )
    assert run.data.tags["limited_settings"] == limits
    assert "tuned_from" not in run.data.tags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digitz"], "Did you mean 'digits'"),
        (["--data", "nowhere"], "There is no folder nowhere"),
        (["--model", "deepv1"], "Did you mean 'deep_v1'"),
        (["--variation", "resnot"], "There is no deep_v1 variation 'resnot'"),
        (
            ["--variation", "resnet"],
            "'resnet' is a variation of deep_v2, not of deep_v1. Use --model deep_v2/resnet.",
        ),
        (["--epochs", "0"], "--epochs 0 is not allowed"),
        (["--epoch", "3"], "Did you mean --epochs"),
        (
            ["--growth_rate", "3"],
            "--growth-rate is a setting of deep_v2 (densenet), not of deep_v1",
        ),
        (["--grow_rate", "3"], "There is no option --grow-rate"),
        (["--device", "cuda"], "--device cuda is not available"),
        (["digits"], "Unexpected argument 'digits'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(
    eyevsai: Eyevsai, arguments: list[str], message: str
) -> None:
    done = eyevsai("train", *arguments, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not MlflowClient().search_runs(experiments())


def test_debug_shows_the_traceback(eyevsai: Eyevsai) -> None:
    for debug in (("--debug",), ("--debug", "true")):
        with pytest.raises(UserError, match="--epochs 0 is not allowed"):
            # Python prints it and exits with code 1
            eyevsai("train", *debug, "--epochs", "0")
    assert "Traceback" not in eyevsai("train", "--debug", "false", "--epochs", "0", code=2).stderr


@pytest.mark.parametrize("uri", ["sqlite:////proc/none/mlflow.db", "mlruns"])
def test_a_store_that_cannot_be_used_is_told(eyevsai: Eyevsai, uri: str) -> None:
    done = eyevsai("train", *TINY, code=2, MLFLOW_TRACKING_URI=uri)
    assert "store" in done.stderr
    assert "Traceback" not in done.stderr

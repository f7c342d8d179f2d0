"""What must not change unnoticed: losses of a tiny run, the flags, the files written from
declarations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eyevsai.codegen import render_files
from eyevsai.config import train_settings
from eyevsai.data.dataset import load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import FAMILIES, build, get_family
from tests.conftest import ROOT

HERE = Path(__file__).parent
ALL = [(family, name) for family in FAMILIES for name in get_family(family).variations]
# Features stand in test_features.py; bases are compared with their libraries in
# tests/unit/models/test_transfer.py.
NETWORKS = [pair for pair in ALL if pair[0] not in ("shallow", "transfer")]
# Skip connections make 1e-3 of how a CPU rounds within two epochs, the plain network 5e-7: it
# stands for the loop.
TRAINED = [("deep_v1", "standard")]


def tiny_losses(family: str, variation: str, cache_dir: Path) -> list[list[float]]:
    """Train and valid loss per epoch on digits: float32, one thread, seed 0."""
    declared = get_family(family).variations[variation].settings
    settings = declared(
        image_size=32,
        width=4,
        epochs=3,
        batch_size=64,
        precision="float32",
        device="cpu",
        warmup_epochs=1.0,
        optimizer="sgd",
        lr=1e-2,  # Adam divides by tiny gradients, and so makes much of how a CPU rounds
    )
    torch.set_num_threads(1)
    dataset = load_dataset(DataSettings(cache_dir=str(cache_dir)))
    learner = build(family, variation, settings, dataset.classes, seed=0)
    data = dataset.open(learner.preprocessing)
    losses: list[list[float]] = []
    learner.fit(
        data.train,
        data.valid,
        lambda epoch, row: losses.append([row["train/loss"], row["valid/loss"]]),
    )
    return losses


def portable_losses(family: str, variation: str, cache_dir: Path) -> list[list[float]]:
    """Return `tiny_losses` with the kernels for AVX2, which round alike on newer CPUs."""
    call = f"tiny_losses({family!r}, {variation!r}, Path({str(cache_dir)!r}))"
    code = (
        "import json\nfrom pathlib import Path\n"
        "from tests.snapshots.test_golden import tiny_losses\n"
        f"print(json.dumps({call}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    losses: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return losses


def untrained_loss(family: str, variation: str, cache_dir: Path) -> float:
    """Mean negative log likelihood of digits' valid split by a network as it is built from seed
    0.
    """
    settings = (
        get_family(family).variations[variation].settings(image_size=32, width=8, device="cpu")
    )
    dataset = load_dataset(DataSettings(cache_dir=str(cache_dir)))
    learner = build(family, variation, settings, dataset.classes, seed=0)
    valid = dataset.open(learner.preprocessing).valid
    own = learner.predict_proba(valid.arrays())[range(len(valid)), valid.labels.numpy()]
    return float(-np.log(own.astype(np.float64)).mean())


@pytest.fixture(scope="module")
def decoded(cache_dir: Path) -> Path:
    """The cache, with the digits in it."""
    load_dataset(DataSettings(cache_dir=str(cache_dir))).open(Preprocessing(32))
    return cache_dir


@pytest.mark.parametrize(("family", "variation"), NETWORKS)
def test_an_untrained_network_says_what_is_on_record(
    family: str, variation: str, decoded: Path
) -> None:
    recorded = json.loads((HERE / "losses.json").read_text())["untrained"][f"{family}/{variation}"]
    assert untrained_loss(family, variation, decoded) == pytest.approx(recorded, rel=1e-4)


@pytest.mark.processes("torch chooses its kernels when it is imported")
@pytest.mark.parametrize(("family", "variation"), TRAINED)
def test_losses_are_those_on_record(family: str, variation: str, decoded: Path) -> None:
    recorded = json.loads((HERE / "losses.json").read_text())["trained"][f"{family}/{variation}"]
    assert recorded[0][1] - recorded[-1][1] > 0.01  # a hundred times the tolerance
    found = portable_losses(family, variation, decoded)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_flags_are_those_on_record(family: str, variation: str) -> None:
    recorded = json.loads((HERE / "flags.json").read_text())[f"{family}/{variation}"]
    assert {
        setting.flag: setting.default for setting in train_settings(family, variation)
    } == recorded


@pytest.mark.parametrize("path", render_files(), ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == render_files()[path]


def test_the_api_and_help_import_nothing_heavy() -> None:
    code = (
        "import sys, eyevsai\nfrom eyevsai import train, tune, evaluate, compare, export, load, "
        "UserError\n"
    )
    code += (
        "assert 'train' in dir(eyevsai)\nheavy = {'torch', 'mlflow', 'numpy', 'optuna'} & "
        "set(sys.modules)\n"
    )
    code += "assert not heavy, heavy\n"
    code += (
        "sys.argv = ['eyevsai', 'train', '--model', 'deep_v1', '--help']\nfrom eyevsai.cli.main "
        "import main\n"
    )
    # nor what other models declare
    others = "{'eyevsai.models.transfer.settings', 'eyevsai.models.shallow.settings'}"
    code += (
        "try:\n    main()\nfinally:\n    heavy = ({'torch', 'mlflow', 'numpy', 'rich', 'pydantic'}"
        f" | {others}) & set(sys.modules)\n"
    )
    code += "    assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for panel in ("Model", "Data", "Run", "Training", "Augmentation", "Device", "deep_v1"):
        assert f"\n{panel}:\n" in done.stdout
    assert "--weight-decay" in done.stdout
    assert "--weight_decay" not in done.stdout


def test_list_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys\nsys.argv = ['eyevsai', 'list']\nfrom eyevsai.cli.main import main\n"
        "try:\n    main()\nfinally:\n    heavy = {'torch', 'mlflow'} & set(sys.modules)\n"
        "    assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deep_v1" in done.stdout


if __name__ == "__main__":  # records anew, after a change that is meant to change them
    import tempfile

    folder = Path(tempfile.mkdtemp())
    losses = {
        "untrained": {f"{f}/{v}": untrained_loss(f, v, folder) for f, v in NETWORKS},
        "trained": {f"{f}/{v}": portable_losses(f, v, folder) for f, v in TRAINED},
    }
    (HERE / "losses.json").write_text(json.dumps(losses, indent=2) + "\n")
    flags = {f"{f}/{v}": {s.flag: s.default for s in train_settings(f, v)} for f, v in ALL}
    (HERE / "flags.json").write_text(json.dumps(flags, indent=2) + "\n")

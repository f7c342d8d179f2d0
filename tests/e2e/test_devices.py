"""`--devices 2`, as a person types it, gives what one process gives that takes each batch in two
parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, Eyevsai
from tests.robustness.runs import make_sandbox

# statistics are averaged over ranks: test_group.py
OWN = ("running_mean", "running_var", "num_batches_tracked")
TRANSFER = {
    "model": "transfer",
    "variation": "mobilenet_v2",
    "head_units": None,
    "width": None,
    "epochs": None,
    "weights": "none",
    "dense_units": 16,
    "feature_views": 2,
    "freeze_epochs": 1,
    "fine_tune_epochs": 2,
    "unfreeze_stages": 2,
}
CASES: dict[str, dict[str, Any]] = {
    "deep_v1/standard": {"mixup": 0.2, "ema_decay": 0.9},
    "deep_v1/residual": {"variation": "residual", "auto_augment": "trivial", "class_weights": True},
    "deep_v2/resnet": {
        "model": "deep_v2",
        "variation": "resnet",
        "layers": "1,1,1,1",
        "head_units": None,
        "gradient_checkpointing": True,
    },
    "transfer/mobilenet_v2": TRANSFER,
}


@pytest.mark.parametrize(
    "case",
    [next(iter(CASES)), *(pytest.param(each, marks=pytest.mark.slow) for each in list(CASES)[1:])],
)
def test_two_devices_give_the_weights_of_one(
    case: str, stripes: Path, template_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the process of rank 1
    states = []
    for number, given in enumerate(({"devices": 2}, {"grad_accum_steps": 2})):
        sandbox = make_sandbox(
            tmp_path / str(number), template_store, stripes, by_mlflow=case == "deep_v1/residual"
        )
        settings = {"epochs": 2} | CASES[case] | given
        if sandbox.by_mlflow:
            done = sandbox.run(**settings)
            assert done.returncode == 0, done.stderr
        else:
            sandbox.invoke(**settings)
        (run_id,) = sandbox.run_ids()
        outcome = sandbox.outcome(run_id)
        assert outcome.status == "FINISHED"
        assert sandbox.client.get_run(run_id).data.params.get("devices", "1") == str(
            given.get("devices", 1)
        )
        assert len(sandbox.client.search_model_versions()) == 1
        states.append(
            {name: each for name, each in outcome.tensors.items() if name.startswith("network.")}
        )
    shared, alone = states
    assert shared.keys() == alone.keys()
    for name, tensor in alone.items():
        if not name.endswith(OWN):
            torch.testing.assert_close(shared[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--devices", "0"], "--devices 0 is not allowed"),
        (["train", "--model", "shallow", "--devices", "2"], "--devices is a setting of"),
        (["train", "--devices", "64"], "--batch-size 64 is too small for --devices 64"),
        (
            ["tune", "--devices", "2"],
            "--parallel-jobs runs several at once",
        ),
    ],
)
def test_devices_that_cannot_be_are_refused(
    eyevsai: Eyevsai, arguments: list[str], message: str
) -> None:
    done = eyevsai(*arguments, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr

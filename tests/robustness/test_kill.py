"""Requirement 1: a run that is killed at any step, or in the middle of a save, goes on as if it had
not been.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.robustness.runs import (
    EPOCHS,
    STEPS,
    Outcome,
    Sandbox,
    make_sandbox,
    survives,
    survives_here,
)

pytestmark = pytest.mark.xdist_group("kill")  # what they compare with is trained once


@pytest.fixture(scope="module")
def expected(
    stripes: Path, template_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """What a run leaves that nobody disturbs."""
    sandbox = make_sandbox(tmp_path_factory.mktemp("whole") / "sandbox", template_store, stripes)
    sandbox.invoke()
    outcome = sandbox.outcome(sandbox.run_ids()[0])
    assert outcome.status == "FINISHED"
    assert [step for step, _ in outcome.metrics["valid/loss"]] == list(range(1, EPOCHS + 1))
    assert outcome.tensors
    return outcome


def was_killed(done) -> None:  # type: ignore[no-untyped-def]
    assert done.returncode in (-signal.SIGKILL, 1), done.stderr  # 1 is that of mlflow run


FAULTS = [
    f"kill:{step}" for step in random.Random(1).sample(range(STEPS + 1, EPOCHS * STEPS + 1), 4)
] + ["torn:3"]


ROUNDS = [(FAULTS[0], False), *((fault, number % 2 == 0) for number, fault in enumerate(FAULTS))]


@pytest.mark.parametrize(
    ("fault", "sandbox"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] if number else [])
        for number, each in enumerate(ROUNDS)
    ],
    indirect=["sandbox"],
)
@pytest.mark.requirement(1)
@pytest.mark.processes("one is killed, another resumes")
def test_killed_run_resumes_bit_by_bit(expected: Outcome, fault: str, sandbox: Sandbox) -> None:
    assert survives(sandbox, fault, expected, was_killed)


# Of each other torch family one variation, with all that a loop may carry from step to step.
TRANSFER = {
    "model": "transfer",
    "variation": "mobilenet_v2",
    "head_units": None,
    "width": None,
    "epochs": None,
    "weights": "none",
    "dense_units": 16,
    "feature_views": 2,
}
OTHERS = {
    "deep_v2": {
        "model": "deep_v2",
        "variation": "hybrid",
        "layers": "1,2,1",
        "head_units": None,
        "epochs": 3,
        "ema_decay": 0.9,
        "mixup": 0.2,
        "gradient_checkpointing": True,
    },
    "transfer, frozen": {**TRANSFER, "freeze_epochs": 2, "fine_tune_epochs": 1, "ema_decay": 0.9},
    "transfer, unfrozen": {
        **TRANSFER,
        "freeze_epochs": 1,
        "fine_tune_epochs": 2,
        "unfreeze_stages": 2,
    },
}


@pytest.mark.requirement(1)
@pytest.mark.parametrize("family", OTHERS)
def test_another_family_resumes_bit_by_bit(
    family: str, stripes: Path, template_store: Path, tmp_path: Path
) -> None:
    settings = OTHERS[family]
    whole, sandbox = (
        make_sandbox(tmp_path / name, template_store, stripes) for name in ("whole", "sandbox")
    )
    whole.invoke(**settings)
    assert survives_here(
        sandbox, f"kill:{STEPS + 3}", whole.outcome(whole.run_ids()[0]), **settings
    )


@pytest.mark.requirement(1)
@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_another_family_resumes_after_a_kill(
    family: str, stripes: Path, template_store: Path, tmp_path: Path
) -> None:
    settings = OTHERS[family]
    whole, sandbox = (
        make_sandbox(tmp_path / name, template_store, stripes) for name in ("whole", "sandbox")
    )
    assert whole.run(**settings).returncode == 0
    expected = whole.outcome(whole.run_ids()[0])
    assert survives(sandbox, f"kill:{STEPS + 3}", expected, was_killed, **settings)


@pytest.mark.requirement(1)
@pytest.mark.slow
def test_deleted_feature_cache_is_computed_again_on_resume(
    stripes: Path, template_store: Path, tmp_path: Path
) -> None:
    settings = OTHERS["transfer, frozen"]
    whole, sandbox = (
        make_sandbox(tmp_path / name, template_store, stripes) for name in ("whole", "sandbox")
    )
    caches = [tmp_path / "cache of whole", tmp_path / "cache of sandbox"]
    assert whole.run(**settings, cache_dir=caches[0]).returncode == 0
    was_killed(sandbox.run(f"kill:{STEPS + 3}", **settings, cache_dir=caches[1]))
    shutil.rmtree(caches[1] / "features")
    (run_id,) = sandbox.run_ids()
    assert sandbox.run(resume=run_id, cache_dir=caches[1]).returncode == 0
    assert sandbox.outcome(run_id).equals(whole.outcome(whole.run_ids()[0]))


@pytest.mark.requirement(23)
def test_flipped_bit_in_a_checkpoint_is_found_and_the_one_before_is_used(
    expected: Outcome, sandbox: Sandbox
) -> None:
    sandbox.invoke("flip:3", code=1)
    (run_id,) = sandbox.run_ids()
    done = sandbox.invoke(resume=run_id)
    assert "is damaged" in done.stderr
    assert "Resuming at epoch 3" in done.stderr
    assert sandbox.outcome(run_id).equals(expected)


@pytest.mark.requirement(23)
@pytest.mark.slow
def test_flipped_bit_is_found_after_a_kill(expected: Outcome, sandbox: Sandbox) -> None:
    was_killed(sandbox.run("flip:3"))
    (run_id,) = sandbox.run_ids()
    done = sandbox.run(resume=run_id)
    assert "is damaged" in done.stderr
    assert sandbox.outcome(run_id).equals(expected)


@pytest.mark.slow
def test_auto_knows_a_run_again_whose_settings_a_study_found(
    tmp_path: Path, template_store: Path, stripes: Path
) -> None:
    sandbox = make_sandbox(tmp_path / "sandbox", template_store, stripes)
    train = sandbox.command()
    (sandbox.folder / "space.toml").write_text("lr = 0.01\n")
    tune = [
        *train[:3],
        "tune",
        *train[4:],
        "--n-trials",
        "1",
        "--space",
        "space.toml",
        "--study",
        "small",
    ]
    subprocess.run(
        tune,
        cwd=sandbox.folder,
        env=sandbox.environment(),
        check=True,
        capture_output=True,
        timeout=280,
    )
    before = set(sandbox.run_ids())
    was_killed(sandbox.run(FAULTS[0], tuned="small"))
    done = sandbox.run(resume="auto", tuned="small")
    assert done.returncode == 0, done.stderr
    (run_id,) = set(sandbox.run_ids()) - before
    assert sandbox.outcome(run_id).status == "FINISHED"
    run = sandbox.client.get_run(run_id)
    assert run.data.tags["tuned_from"] in before
    assert run.data.tags["tuned_settings"] == "lr 0.006 -> 0.01"

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.training.checkpoint import NEWEST, PREVIOUS, Checkpoints
from eyevsai.training.trainer_state import EpochMetrics

TINY = DeepV1Settings(
    image_size=32,
    width=4,
    head_units=0,
    epochs=4,
    batch_size=8,
    precision="float32",
    device="cpu",
    dropout=0.5,
)
STEPS = 4 * 5  # at least: 42 training images in batches of 8


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    return load_dataset(DataSettings(data=str(stripes), cache_dir=str(cache_dir))).open(
        Preprocessing(32)
    )


class Power(Checkpoints):
    """Checkpoints of a process that ends at a given step: asked to, or without a word."""

    def __init__(self, folder: Path, step: int, *, gently: bool) -> None:
        super().__init__(folder, stop=CancellationToken())
        self.step, self.gently, self.seen = step, gently, 0

    def is_due(self) -> bool:
        self.seen += 1
        if self.seen == self.step:
            if not self.gently:
                raise SystemError("power failure")
            self.stop.requested = KeyboardInterrupt()
        return super().is_due()


def fit(
    data: Data, settings: DeepV1Settings, checkpoints: Checkpoints | None = None
) -> tuple[DeepV1Learner, list]:
    learner = DeepV1Learner("standard", settings, data.dataset.classes, seed=0)
    rows: list[EpochMetrics] = []
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(dict(row)), checkpoints)
    for row in rows:
        del row["images_per_s"]
    return learner, rows


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "lr": 0.01},
        {"optimizer": "muon", "initial_scale": 0.5, "image_size": 48},
        {"optimizer": "adam", "schedule": "plateau", "plateau_patience": 1},
        {"precision": "bfloat16", "class_weights": True, "grad_accum_steps": 2},
        {
            "mixup": 0.4,
            "cutmix": 1.0,
            "ema_decay": 0.9,
            "dropout_warmup_epochs": 3.0,
            "tta_flip": True,
        },
    ],
)
@pytest.mark.parametrize("gently", [True, False])
@pytest.mark.requirement(1)
def test_a_resumed_run_is_bit_equal_to_one_that_was_never_interrupted(
    data: Data, tmp_path: Path, changes: dict, gently: bool
) -> None:
    settings = replace(TINY, **changes)
    whole, rows = fit(data, settings, Checkpoints(tmp_path / "whole"))
    for step in random.Random(str(changes)).sample(range(1, STEPS), 3):
        folder = tmp_path / f"at {step}"
        with pytest.raises((KeyboardInterrupt, SystemError)):
            fit(data, settings, Power(folder, step, gently=gently))
        torch.manual_seed(step)  # nothing may hang on the global state
        resumed, again = fit(data, settings, Checkpoints(folder))
        assert again == rows
        for name, tensor in whole.tensors().items():
            assert torch.equal(tensor, resumed.tensors()[name]), name
        ends = [Checkpoints(path).load() for path in (tmp_path / "whole", folder)]
        assert all(
            torch.equal(tensor, ends[1].tensors[name]) for name, tensor in ends[0].tensors.items()
        )


def test_a_gentle_end_saves_the_very_step(data: Data, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(data, TINY, Power(tmp_path, 7, gently=True))
    progress = Checkpoints(tmp_path).load().state["trainer"]
    assert (len(progress["history"]), progress["steps"]) == (1, 1)


def test_the_epoch_is_on_disk_before_it_is_told(data: Data, tmp_path: Path) -> None:
    def tell(epoch: int, row: EpochMetrics) -> None:
        assert Checkpoints(tmp_path).load().state["trainer"]["history"][-1] == row

    learner = DeepV1Learner("standard", TINY, data.dataset.classes, seed=0)
    learner.fit(data.train, data.valid, tell, Checkpoints(tmp_path))


def test_time_makes_a_checkpoint_due_in_mid_epoch(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, every_s=0.0).is_due()
    assert not Checkpoints(tmp_path, every_s=60.0).is_due()


def two_checkpoints(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for number in (1, 2, 3):
        checkpoints.save({"a": torch.full((100,), float(number))}, {"number": number})
    return checkpoints


def test_two_are_kept(tmp_path: Path) -> None:
    two_checkpoints(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.requirement(23)
def test_every_flipped_bit_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = two_checkpoints(tmp_path)
    newest = json.loads((tmp_path / NEWEST).read_text())["body"]["file"]
    random.seed(0)
    for path in (tmp_path / NEWEST, tmp_path / newest):
        content = path.read_bytes()
        for position in random.sample(range(len(content)), 100):
            flipped = bytearray(content)
            flipped[position] ^= 1 << random.randrange(8)
            path.write_bytes(flipped)
            caplog.clear()
            assert checkpoints.load().state == {"number": 2}, (path, position)
            assert "damaged" in caplog.text
        path.write_bytes(content)
    assert checkpoints.load().state == {"number": 3}


def test_when_none_is_whole_it_is_said(tmp_path: Path) -> None:
    checkpoints = two_checkpoints(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(JobError, match="are damaged"):
        checkpoints.load()
    assert Checkpoints(tmp_path / "nothing").load() is None


@pytest.mark.parametrize(
    "point", ["_write_tensors", "hash_file", "write_atomically", "write_atomically again"]
)
def test_a_save_that_is_torn_anywhere_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    from eyevsai.training import checkpoint

    checkpoints = two_checkpoints(tmp_path)
    name, _, again = point.partition(" ")
    original, calls = getattr(checkpoint, name), []

    def tear(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if again and len(calls) == 1:
            return original(*arguments, **options)
        raise SystemError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, name, tear)
        with pytest.raises(SystemError):
            checkpoints.save({"a": torch.zeros(100)}, {"number": 4})
    assert checkpoints.load().state == {"number": 3}
    checkpoints.save({"a": torch.zeros(100)}, {"number": 5})
    assert checkpoints.load().state == {"number": 5}
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert (tmp_path / PREVIOUS).exists()

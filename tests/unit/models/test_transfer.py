"""Bases, their weights, and what is frozen when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from eyevsai.config import compose_train
from eyevsai.core.errors import JobError, UserError
from eyevsai.core.settings import list_settings
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import get_family
from eyevsai.models.transfer.backbones import BACKBONES
from eyevsai.models.transfer.network import TransferLearner
from eyevsai.models.transfer.pretrained import LITE_PACKAGE, find_weights
from eyevsai.models.transfer.settings import TransferSettings
from eyevsai.models.transfer.weights_file import load_weights, read_state_dicts
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.early_stopping import selection_key
from eyevsai.training.gradual_unfreezing import GradualUnfreezing
from eyevsai.training.settings import UnfreezingSettings
from eyevsai.training.weight_averaging import SHARES, WeightAverager
from tests.conftest import PHOTOS
from tests.unit.large import LARGE, no_large_init

VARIATIONS = get_family("transfer").variations
LITE = "efficientnet_lite0"
TINY: dict[str, Any] = {
    "image_size": 32,
    "batch_size": 16,
    "precision": "float32",
    "device": "cpu",
    "weights": "none",
    "warmup_epochs": 0.0,
    "freeze_epochs": 2,
    "fine_tune_epochs": 2,
    "unfreeze_stages": 2,
    "unfreezing": "gradual",
    "wise_ft": False,
    "initial_scale": 1.0,
    "feature_views": 2,
    "patience": 0,
    "dense_units": "16",
}


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    settings = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    return load_dataset(settings).open(Preprocessing(32))


def make(variation: str = "mobilenet_v2", seed: int = 0, **settings: Any) -> TransferLearner:
    learner = TransferLearner(
        variation, VARIATIONS[variation].settings(**TINY | settings), ("a", "b", "c"), seed
    )
    learner.prepare(["a"] * 42)
    return learner


def fit(
    learner: TransferLearner, data: Data, checkpoints: Checkpoints | None = None
) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(row), checkpoints)
    return rows


# Each setting of its own, what else has to be so, and a value that makes another model of it.
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "freeze_epochs": ({}, 1),
    "fine_tune_epochs": ({}, 3),
    "unfreeze_stages": ({}, 1),
    "unfreezing": ({}, "together"),
    "wise_ft": ({"fine_tune_lr": 0.05, "dense_units": "none"}, True),
    "fine_tune_lr": ({}, 5e-3),
    "layer_decay": ({}, 1.0),
    "feature_views": ({}, 1),
    "dense_units": ({}, "none"),
    "head_solver": ({"dense_units": "none"}, "sgd"),
    "dropout": ({}, 0.8),
}
PREPARING = {"weights", "mean", "std", "interpolation"}  # further down


def test_every_setting_of_its_own_is_looked_at() -> None:
    shared = {setting.name for setting in list_settings(UnfreezingSettings.__mro__[1])}
    own = {setting.name for setting in list_settings(TransferSettings)} - shared
    assert set(CHANGES) | PREPARING == own


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_makes_another_model(name: str, data: Data) -> None:
    given, changed = CHANGES[name]
    learners = [
        make(**{"optimizer": "sgd", "lr": 0.05, **given, **other})
        for other in ({}, {name: changed})
    ]
    rows = [
        [(row["train/loss"], row["valid/loss"]) for row in fit(learner, data)]
        for learner in learners
    ]
    assert rows[0] != rows[1]


def test_a_linear_head_is_solved_in_one_epoch_and_then_fine_tuned(data: Data) -> None:
    rows = fit(make(freeze_epochs=6, dense_units="none"), data)
    assert [row["unfrozen_stages"] for row in rows] == [0, 1, 2]
    assert [row["head_strength"] for row in rows if "head_strength" in row] != []
    assert "head_strength" not in rows[1]


def test_a_solved_head_is_the_whole_training_without_fine_tuning(data: Data) -> None:
    learner = make(freeze_epochs=6, fine_tune_epochs=0, dense_units="none")
    (row,) = fit(learner, data)
    images = [image.numpy() for image in data.valid.images(range(len(data.valid)))]
    right = learner.predict_proba(images).argmax(1) == data.valid.labels.numpy()
    assert right.mean() == pytest.approx(row["valid/accuracy"])
    assert row["valid/accuracy"] > 0.5


def test_a_frozen_base_stays_as_it_was_statistics_too(data: Data) -> None:
    learner = make(fine_tune_epochs=0)
    before = {name: tensor.clone() for name, tensor in learner.network.stages.state_dict().items()}
    head = {name: tensor.clone() for name, tensor in learner.network.head.state_dict().items()}
    fit(learner, data)
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in learner.network.stages.state_dict().items()
    )
    assert not all(
        torch.equal(tensor, head[name])
        for name, tensor in learner.network.head.state_dict().items()
    )


def test_stages_are_unfrozen_from_the_top_and_the_others_do_not_move(data: Data) -> None:
    learner = make(fine_tune_epochs=4, unfreeze_stages=3)
    stages = learner.network.stages
    before = [
        {name: tensor.clone() for name, tensor in stage.state_dict().items()} for stage in stages
    ]
    seen: list[list[bool]] = []
    rows: list[dict[str, float]] = []

    def on_epoch(epoch: int, row: dict[str, float]) -> None:
        rows.append(row)
        seen.append(
            [
                all(
                    torch.equal(tensor, before[number][name])
                    for name, tensor in stage.state_dict().items()
                )
                for number, stage in enumerate(stages)
            ]
        )

    learner.fit(data.train, data.valid, on_epoch)
    assert [row["unfrozen_stages"] for row in rows] == [0, 0, 1, 2, 3, 3]
    assert [each.count(False) for each in seen] == [0, 0, 1, 2, 3, 3]
    assert all(weight.requires_grad for weight in learner.network.parameters())  # afterwards
    assert seen[-1] == [True, True, False, False, False]
    trainable = [row["trainable_parameters"] for row in rows]
    assert trainable == sorted(trainable)
    assert trainable[0] == sum(weight.numel() for weight in learner.network.head.parameters())


def test_stages_can_be_unfrozen_together(data: Data) -> None:
    rows = fit(make(unfreezing="together", unfreeze_stages=3), data)
    assert [row["unfrozen_stages"] for row in rows] == [0, 0, 3, 3]


def test_images_grow_during_fine_tuning() -> None:
    learner = make(image_size=64, initial_scale=0.5, fine_tune_epochs=4)
    strategy = GradualUnfreezing(learner.network, learner.settings)  # type: ignore[arg-type]
    epochs = (2.0, 3.5, 5.0, 6.0)  # the first two are those of the head
    assert [strategy.image_size_at(epoch) for epoch in epochs] == [32, 48, 64, 64]
    assert [strategy.cost_at(epoch) for epoch in epochs] == [0.25, 0.5625, 1, 1]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_best_average_with_the_weights_before_fine_tuning_is_kept(
    data: Data, ema_decay: float
) -> None:
    # fine-tuning with such a rate makes the head worse, and averages less so
    bad = {"fine_tune_lr": 0.05, "ema_decay": ema_decay, "dense_units": "none"}
    alone, averaged = make(**bad), make(**bad, wise_ft=True)
    before, after = fit(alone, data)[-1], fit(averaged, data)[-1]
    share = after["fine_tuned_share"]
    assert share in SHARES
    assert selection_key(after) > selection_key(before)
    assert {name: after[name] for name in ("train/loss", "train/accuracy", "lr")} == {
        name: before[name] for name in ("train/loss", "train/accuracy", "lr")
    }


def test_an_average_is_between_the_weights(data: Data) -> None:
    learner = make(dense_units="none")
    start = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    averager = WeightAverager(
        learner.network, {name for name in start if name.startswith("stages.")}
    )
    assert not averager.is_ready
    averager.begin_fine_tuning(learner.network)
    with torch.no_grad():
        for weight in learner.network.parameters():
            weight.add_(1.0)
    shares = []
    for share in averager.averages(learner.network):
        shares.append(share)
        for name, weight in learner.network.named_parameters():
            torch.testing.assert_close(weight.detach(), start[name] + share)
    assert tuple(shares) == SHARES


def test_a_head_that_was_not_trained_before_is_not_averaged(data: Data) -> None:
    rows = fit(make(freeze_epochs=0, wise_ft=True), data)
    assert not any("fine_tuned_share" in row for row in rows)


@pytest.mark.parametrize(("epochs", "stages"), [(1, 3), (2, 5), (3, 5), (8, 2), (7, 1)])
def test_all_stages_that_were_asked_for_are_unfrozen(epochs: int, stages: int) -> None:
    learner = make(fine_tune_epochs=epochs, unfreeze_stages=stages)
    course = GradualUnfreezing(learner.network, learner.settings)  # type: ignore[arg-type]
    counts = [course.num_unfrozen(epoch) for epoch in range(1, 3 + epochs)]
    assert counts[:2] == [0, 0]
    assert counts[2:] == sorted(counts[2:])
    assert (counts[2] >= 1, counts[-1]) == (True, stages)


def test_lower_stages_learn_slower() -> None:
    learner = make(
        unfreeze_stages=5, fine_tune_lr=1e-2, layer_decay=0.5, schedule="constant", lr=1e-3
    )
    course = GradualUnfreezing(learner.network, learner.settings)  # type: ignore[arg-type]
    assert course.lrs_at(1.5) == [1e-3, 0, 0, 0, 0, 0]
    assert course.lrs_at(3.0) == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3, 1.25e-3, 6.25e-4])


def test_a_head_that_has_learned_all_it_can_waits_for_the_base_to_be_unfrozen(data: Data) -> None:
    rows = fit(make(freeze_epochs=6, patience=2, lr=1e-6), data)
    assert len(rows) > 6


def test_epochs_count_once_images_have_the_full_size_and_all_stages_are_unfrozen() -> None:
    def last_change(**settings: Any) -> int:
        learner = make(freeze_epochs=4, image_size=64, **settings)
        course = GradualUnfreezing(learner.network, learner.settings)  # type: ignore[arg-type]
        return course.last_change()

    stages = {"unfreeze_stages": 2, "unfreezing": "gradual"}
    frozen = last_change(fine_tune_epochs=0)
    assert last_change(fine_tune_epochs=0, initial_scale=0.5) == frozen == 0
    assert last_change(fine_tune_epochs=8, unfreezing="together") == 4
    assert last_change(fine_tune_epochs=8, **stages) == 4 + 4
    assert last_change(fine_tune_epochs=8, initial_scale=0.5, **stages) == 4 + 5


def test_frozen_features_are_computed_once_for_all_seeds(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a cache in which no other test has features
    alone = DataSettings(data=str(stripes), cache_dir=str(tmp_path))
    data = load_dataset(alone).open(Preprocessing(32))
    learner = make()
    fit(learner, data)
    states = learner.network.stages.state_dict()

    def refuse(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the base was asked again")

    again = make(seed=7, fine_tune_epochs=0, lr=1e-2, crop_share=0.5)
    base = make().network.stages.state_dict()
    again.network.stages.load_state_dict(base)
    # `learner` was tuned since
    assert not all(torch.equal(base[name], states[name]) for name in base)
    monkeypatch.setattr(again.network, "extract_features", refuse)
    assert len(fit(again, data)) == 2
    for change in ({"crop_scale": 0.9}, {"channels_last": False}, {"tta_flip": True}):
        other = make(fine_tune_epochs=0, **change)
        monkeypatch.setattr(other.network, "extract_features", refuse)
        with pytest.raises(AssertionError, match="asked again"):
            fit(other, data)


def test_frozen_features_are_those_of_the_network(data: Data) -> None:
    learner = make(fine_tune_epochs=0, tta_flip=True)
    rows = fit(learner, data)
    probabilities = torch.from_numpy(learner.predict_proba(data.valid.arrays()))
    accuracy = (probabilities.argmax(1) == data.valid.labels).double().mean().item()
    assert accuracy == max(row["valid/accuracy"] for row in rows)


def test_checkpoints_hold_no_frozen_weights(data: Data, tmp_path: Path) -> None:
    learner = make(fine_tune_epochs=0)
    assert learner.settings.ema_decay
    fit(learner, data, Checkpoints(tmp_path))
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert max(sizes) < 1_000_000 < sum(tensor.nbytes for tensor in learner.tensors().values())


@pytest.mark.parametrize("fine_tune_epochs", [0, 1])
@pytest.mark.parametrize("wise_ft", [False, True])
def test_a_run_killed_after_its_last_epoch_is_gone_on_with(
    data: Data, tmp_path: Path, fine_tune_epochs: int, wise_ft: bool
) -> None:
    first, again = (make(fine_tune_epochs=fine_tune_epochs, wise_ft=wise_ft) for _ in range(2))
    rows = fit(first, data, Checkpoints(tmp_path))
    assert fit(again, data, Checkpoints(tmp_path)) == rows
    assert all(
        torch.equal(tensor, again.tensors()[name]) for name, tensor in first.tensors().items()
    )


def test_a_run_is_not_gone_on_with_on_other_weights(data: Data, tmp_path: Path) -> None:
    fit(make(), data, Checkpoints(tmp_path))
    with pytest.raises(JobError, match="weights differ from those that this run started with"):
        fit(make(seed=1, fine_tune_epochs=3), data, Checkpoints(tmp_path))


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_base_says_what_its_library_says(
    variation: str, large_tensors_uninitialised: None
) -> None:
    base = BACKBONES[variation]
    torch.manual_seed(0)
    # as the learner's lies: a hundred layers round
    whole = base.build().eval().to(memory_format=torch.channels_last)
    learner = make(variation)
    for stage, loaded in zip(learner.network.stages, base.split(whole), strict=True):
        stage.load_state_dict(loaded.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = learner.network.eval().extract_features(images)
        if base.library == "timm":
            expected = whole.forward_head(whole.forward_features(images), pre_logits=True)  # type: ignore[operator]
        elif variation.startswith("resnet"):
            whole.fc = nn.Identity()
            expected = whole(images)
        else:
            maps = whole.features(images)  # type: ignore[operator]
            maps = torch.relu(maps) if variation == "densenet121" else maps
            expected = maps.mean((2, 3))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def large_tensors_uninitialised() -> Iterator[None]:
    with no_large_init():
        yield


FILES = [
    pytest.param(
        variation,
        suffix,
        marks=[] if suffix == ".safetensors" or variation == "mobilenet_v2" else [pytest.mark.slow],
    )
    for variation in VARIATIONS
    for suffix in (".safetensors", ".pth")
]


@pytest.mark.parametrize(("variation", "suffix"), FILES)
def test_weights_of_a_file_are_those_that_the_base_begins_with(
    variation: str, suffix: str, tmp_path: Path, large_tensors_uninitialised: None
) -> None:
    base, path = BACKBONES[variation], tmp_path / f"whole{suffix}"
    whole = base.build()
    written = {
        name: tensor[:1].clone() if tensor.numel() > LARGE else tensor
        for name, tensor in whole.state_dict().items()
    }
    (save_file if suffix == ".safetensors" else torch.save)(written, path)
    learner = make(variation, weights=str(path))
    stages = nn.Sequential(*base.split(whole))
    found = learner.network.stages.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in stages.state_dict().items())


def test_old_names_of_densenet_are_understood(tmp_path: Path) -> None:
    base = BACKBONES["densenet121"]
    whole = base.build()
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.")
        if "denselayer" in name
        else name: tensor
        for name, tensor in whole.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert any(".norm.1." in name for name in old)
    torch.save(old, tmp_path / "old.pth")
    load_weights(base, base.build(), tmp_path / "old.pth")


def test_a_checkpoint_of_a_training_script_and_a_bare_backbone_are_understood(
    tmp_path: Path,
) -> None:
    base = BACKBONES["mobilenet_v2"]
    whole = base.build()
    wrapped = {
        "epoch": 3,
        "state_dict": {f"module.{name}": tensor for name, tensor in whole.state_dict().items()},
    }
    torch.save(wrapped, tmp_path / "wrapped.pth")
    torch.save(whole.features.state_dict(), tmp_path / "bare.pth")  # type: ignore[union-attr]
    for name in ("wrapped.pth", "bare.pth"):
        network = base.build()
        load_weights(base, network, tmp_path / name)
        assert torch.equal(network.features[0][0].weight, whole.features[0][0].weight)  # type: ignore[index,union-attr]


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(BACKBONES["mobilenet_v2"].build().state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"missing: conv1\.weight.*unexpected: features\.0\.0\.weight"
    ):
        make("resnet50", weights=str(tmp_path / "other.pth"))
    wide = BACKBONES["mobilenet_v2"].build().state_dict()
    wide["features.0.0.weight"] = torch.zeros(8, 3, 3, 3)
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(
        UserError, match=r"of another shape: features\.0\.0\.weight \(8, 3, 3, 3\) instead of"
    ):
        make(weights=str(tmp_path / "wide.safetensors"))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("marker"),)


@pytest.mark.requirement(10)
def test_pickled_objects_are_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(UserError, match="contains pickled objects besides tensors"):
        read_state_dicts(tmp_path / "hostile.pth")
    assert not (tmp_path / "marker").exists()


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    wrong = {
        "features.0.0.weight": torch.full((32, 3, 3, 3), float("nan")),
        "sparse": torch.eye(3).to_sparse(),
    }
    torch.save(BACKBONES["mobilenet_v2"].build().state_dict() | wrong, tmp_path / "wrong.pth")
    with pytest.raises(
        UserError, match=r"not finite floats in dense tensors: features\.0\.0\.weight, sparse"
    ):
        make(weights=str(tmp_path / "wrong.pth"))
    torch.save({"_blocks.x.w": torch.zeros(1), "_blocks.3": torch.zeros(1)}, tmp_path / "names.pth")
    with pytest.raises(UserError, match="does not contain the weights"):
        make(LITE, weights=str(tmp_path / "names.pth"))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_a_torn_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    tensors = {"a": torch.zeros(1000)}
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    content = path.read_bytes()
    path.write_bytes(
        {"half": content[: len(content) // 2], "empty": b"", "text": b"no weights at all"}[damage]
    )
    with pytest.raises(
        UserError, match=f"{name} is not a weights file, or is truncated or damaged"
    ):
        read_state_dicts(path)
    for write in (lambda: torch.save([1, 2], path), lambda: save_file({}, path)):
        write()
        with pytest.raises(UserError, match=f"{name} contains no state dict"):
            read_state_dicts(path)


def test_without_a_network_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, large_tensors_uninitialised: None
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(
        UserError,
        match=r"Put that file at .*vgg16-397923af\.pth.*--weights PATH.*eyevsai install offline "
        r"--run",
    ):
        make("vgg16", weights="imagenet")
    assert not list(tmp_path.rglob("*.pth"))
    path = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    path.write_bytes(b"not what its name says")
    with pytest.raises(UserError, match="is damaged: its SHA-256 does not begin with 397923af"):
        make("vgg16", weights="imagenet")


def test_weights_that_pip_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(LITE_PACKAGE, reason="the extra [offline] is not installed")
    learner = make(LITE, weights="imagenet")
    assert (learner.preprocessing.mean, learner.preprocessing.interpolation) == (
        (0.5, 0.5, 0.5),
        "bicubic",
    )
    assert not torch.equal(
        learner.network.stages[0][0].weight, make(LITE).network.stages[0][0].weight
    )  # type: ignore[index]
    monkeypatch.setattr("eyevsai.models.transfer.pretrained.LITE_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"needs the extra offline.*eyevsai install offline --run"):
        find_weights(BACKBONES[LITE], "imagenet")


def test_the_same_weights_in_two_files_are_the_same(photos: Path) -> None:
    pytest.importorskip(LITE_PACKAGE, reason="the extra [offline] is not installed")
    path = PHOTOS.parent / "weights" / "efficientnet_lite0_timm.pth"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    learners = [make(LITE, weights=each) for each in ("imagenet", str(path))]
    first, second = (learner.network.stages.state_dict() for learner in learners)
    assert all(
        torch.equal(first[name], second[name])
        for name in first
        if not name.endswith("num_batches_tracked")
    )


def test_preprocessing_of_weights_is_what_flags_say_else_the_file_beside_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "own.pth"
    torch.save(BACKBONES["mobilenet_v2"].build().state_dict(), path)
    assert make(weights=str(path)).preprocessing == Preprocessing(32)
    path.with_suffix(".json").write_text(
        json.dumps({"mean": [0, 0, 0.5], "std": [1, 1, 0.5], "interpolation": "bicubic"})
    )
    beside = make(weights=str(path)).preprocessing
    assert beside == Preprocessing(32, (0.0, 0.0, 0.5), (1.0, 1.0, 0.5), "bicubic")
    given = make(weights=str(path), mean="0.1,0.2,0.3", interpolation="bilinear").preprocessing
    assert given == replace(beside, mean=(0.1, 0.2, 0.3), interpolation="bilinear")
    for wrong in ('{"mean": [1, 2]}', '{"std": [0, 1, 1]}', '{"interpolation": "best"}', "[]", "{"):
        path.with_suffix(".json").write_text(wrong)
        with pytest.raises(UserError, match=r"own\.json.* cannot be used"):
            make(weights=str(path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dense_units": "512,"}, "--dense-units takes numbers"),
        ({"mean": "0.5"}, "--mean takes three numbers"),
        ({"std": "0,1,1"}, "--std takes three numbers"),
        ({"freeze_epochs": "0", "fine_tune_epochs": "0"}, "trains nothing"),
        ({"fine_tune_epochs": "0", "mixup": "0.2"}, "--mixup and --cutmix require fine-tuning"),
        ({"image_size": "16"}, "--image-size 16 is not allowed"),
        ({"interpolation": "nearest"}, "--interpolation 'nearest' is not allowed"),
    ],
)
def test_what_cannot_be_is_said(given: dict[str, str], message: str) -> None:
    parsed = {setting.name: setting for setting in list_settings(TransferSettings)}
    with pytest.raises(UserError, match=message):
        compose_train(
            {
                "model": "transfer",
                **{name: parsed[name].parse(value) for name, value in given.items()},
            }
        )
    with pytest.raises(UserError, match="is not a file"):
        make(weights="nowhere.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    "variation", [name for name in VARIATIONS if name not in ("mobilenet_v2", LITE)]
)
def test_a_base_from_nothing_learns_32_images_by_heart(
    variation: str, stripes: Path, tmp_path: Path
) -> None:
    data = load_dataset(DataSettings(data=str(stripes), cache_dir=str(tmp_path))).open(
        Preprocessing(32)
    )
    few = replace(data.train, rows=data.train.rows[:32], labels=data.train.labels[:32])
    plain = {
        "crop_scale": 1.0,
        "flip": False,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
    }
    learner = make(
        variation,
        freeze_epochs=0,
        fine_tune_epochs=80,
        unfreeze_stages=5,
        layer_decay=1.0,
        batch_size=32,
        label_smoothing=0.0,
        dropout=0.0,
        fine_tune_lr=1e-4 if variation == "vgg16" else 1e-3,
        **plain,
    )
    rows: list[dict[str, float]] = []
    learner.fit(few, few, lambda epoch, row: rows.append(row))
    assert max(row["train/accuracy"] for row in rows) == 1.0

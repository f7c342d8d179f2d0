"""Two processes that share batches, against one that computes the same two halves one after the
other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eyevsai.config import compose_train
from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import TerminationRequested, UserError
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.training.batches import Batches, MicroBatch
from eyevsai.training.checkpoint import Checkpoint
from eyevsai.training.device import check_devices
from eyevsai.training.process_group import SINGLE_PROCESS, SingleProcess, current_group
from eyevsai.training.strategy import TrainingStrategy
from eyevsai.workflows.distributed.rank import (
    RankInfo,
    compare_fingerprints,
    rank_from_env,
    set_world_size,
)
from tests.conftest import find_port, write_images
from tests.forks import join_forks, start_fork

pytestmark = pytest.mark.xdist_group("ranks")  # one worker starts the two ranks

SETTINGS = DeepV1Settings(
    image_size=32,
    width=4,
    head_units=8,
    dropout=0.3,
    epochs=2,
    batch_size=12,
    precision="float32",
    device="cpu",
    class_weights=True,
    patience=0,
    warmup_epochs=0,
)


def open_data(folder: Path, cache_dir: Path) -> Data:
    return load_dataset(DataSettings(data=str(folder), cache_dir=str(cache_dir))).open(
        Preprocessing(32)
    )


def fit(
    data: Data, settings: DeepV1Settings, watch: Callable[[nn.Module], None] = lambda _: None
) -> dict[str, Tensor]:
    """The state of a network after its last epoch, which need not be the best."""
    torch.set_num_threads(1)
    learner = DeepV1Learner("residual", settings, data.dataset.classes, 0)
    watch(learner.network)
    states = []

    def keep(epoch: int, row: dict[str, float]) -> None:
        states.append(
            {
                name: tensor.clone().contiguous()
                for name, tensor in learner.network.state_dict().items()
            }
        )

    learner.fit(data.train, data.valid, keep)
    return states[-1]


def take_part(rank: int, port: int, data: Data, out: Path) -> None:
    """Do all that ranks do together, as one of two, and write down what it has in the end."""
    rank_info = RankInfo(rank, 2, rank, 2, "127.0.0.1", port, hosts_store=rank == 0)
    rank_info.join(compose_train({"threads": 1}), rank_info.open_store(), str)
    group = current_group()
    tensors = {f"end.{name}": tensor for name, tensor in fit(data, SETTINGS).items()}
    asked: list[int] = []

    def say(rows: Sequence[int]) -> Tensor:
        asked.extend(rows)
        return torch.tensor([[float(row), -row] for row in rows])

    tensors["predicted"] = group.predict(5, 2, say)
    tensors["asked"] = torch.tensor(asked)
    tensors["settled"] = torch.tensor(group.broadcast_values([float(rank), 7.0 - rank]))
    own = Checkpoint({"weight": torch.arange(3)}, {"step": 4}) if rank == 0 else None
    shared = group.share_checkpoint(own)
    assert shared is not None
    assert shared.state == {"step": 4}
    tensors["shared"] = shared.tensors["weight"]
    stop = CancellationToken()
    group.check(stop)
    stop.requested = KeyboardInterrupt() if rank == 1 else None
    try:
        group.check(stop)
    except (KeyboardInterrupt, TerminationRequested) as error:
        tensors["ended"] = torch.tensor([isinstance(error, TerminationRequested)])
    save_file(tensors, out / f"{rank}.safetensors")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Data:
    folder = write_images(
        tmp_path_factory.mktemp("uneven") / "set", {"across": 21, "down": 14, "wide": 12}
    )
    return open_data(folder, cache_dir)


@pytest.fixture(scope="module")
def ranks(uneven: Data, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two ranks has in the end."""
    out, port = tmp_path_factory.mktemp("ranks"), find_port()
    assert join_forks([start_fork(take_part, rank, port, uneven, out) for rank in range(2)]) == [
        0,
        0,
    ]
    return [load_file(out / f"{rank}.safetensors") for rank in range(2)]


def test_two_ranks_have_the_weights_of_one_process_that_takes_two_parts(
    uneven: Data, ranks: list[dict[str, Tensor]]
) -> None:
    # the last batch has shares of two sizes
    assert len(uneven.train) % SETTINGS.batch_size % 2 == 1
    # mean and variance of each part, where the first batch normalisation is
    seen: list[tuple[Tensor, Tensor]] = []

    def look(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        if layer.training:
            seen.append((inputs[0].detach().mean((0, 2, 3)), inputs[0].detach().var((0, 2, 3))))

    expected = fit(
        uneven,
        replace(SETTINGS, grad_accum_steps=2),
        lambda net: net[0].body[1].register_forward_pre_hook(look),
    )
    for name, tensor in expected.items():
        if "running" not in name and not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(ranks[0][f"end.{name}"], tensor, rtol=0, atol=1e-5)
    for number, name in enumerate(("running_mean", "running_var")):
        average = torch.full_like(seen[0][0], float(number))
        for first, second in zip(seen[::2], seen[1::2], strict=True):
            average = 0.9 * average + 0.1 * (first[number] + second[number]) / 2
        torch.testing.assert_close(ranks[0][f"end.0.body.1.{name}"], average, rtol=1e-4, atol=1e-5)


def test_all_ranks_have_the_same_to_the_bit(ranks: list[dict[str, Tensor]]) -> None:
    first, second = ranks
    ends = [name for name in first if name.startswith("end.")]
    assert ends
    assert all(torch.equal(first[name], second[name]) for name in ends)


def test_what_ranks_tell_each_other(ranks: list[dict[str, Tensor]]) -> None:
    assert [rank["asked"].tolist() for rank in ranks] == [[0, 2, 4], [1, 3]]
    for rank in ranks:
        assert rank["predicted"].tolist() == [[0, 0], [1, -1], [2, -2], [3, -3], [4, -4]]
        assert rank["settled"].tolist() == [0.0, 7.0]
        assert rank["shared"].tolist() == [0, 1, 2]
    # both, by what only one was asked for
    assert [rank["ended"].item() for rank in ranks] == [True, False]


class Fake(SingleProcess):
    """A rank that nobody talks to."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize(
    "change",
    [{}, {"auto_augment": "trivial", "random_erasing": 0.5}, {"mixup": 0.4, "mixup_prob": 1.0}],
)
@pytest.mark.parametrize("num_parts", [1, 2])
def test_shares_of_a_batch_are_the_batch(
    uneven: Data, change: dict[str, object], num_parts: int
) -> None:
    settings = replace(SETTINGS, **change)  # type: ignore[arg-type]
    course, cpu = TrainingStrategy(nn.Linear(1, 1), settings), torch.device("cpu")

    def draw(group: SingleProcess, parts: int) -> tuple[Tensor, list[MicroBatch]]:
        batches = Batches(uneven.train, course, settings, Preprocessing(32), 0, group, cpu, 3)
        labels, own = batches.load(torch.arange(11), 1, 0, parts)
        return labels, list(own)

    labels, whole = draw(SINGLE_PROCESS, 2 * num_parts)
    shares = [part for rank in range(2) for part in draw(Fake(rank, 2), num_parts)[1]]
    assert (
        [part.number for part in shares]
        == [part.number for part in whole]
        == list(range(2 * num_parts))
    )
    for part, expected in zip(shares, whole, strict=True):
        torch.testing.assert_close(part.inputs, expected.inputs, rtol=0, atol=1e-5)
        assert torch.equal(part.targets, expected.targets)
    assert torch.equal(draw(Fake(1, 2), num_parts)[0], labels)


def test_a_batch_that_is_too_small_for_the_devices_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"--batch-size 6 is too small for --devices 4: .* Choose at least 8"
    ):
        replace(SETTINGS, devices=4, batch_size=6)


def test_more_devices_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"this machine has 1 CUDA device\. Choose at most 1"):
        check_devices(2, torch.device("cuda"))
    with pytest.raises(UserError, match="only with CUDA and on CPUs"):
        check_devices(2, torch.device("mps"))
    check_devices(64, torch.device("cpu"))


def test_a_rank_with_other_things_is_refused() -> None:
    compare_fingerprints({"data": "a", "code": "b"}, {"data": "a", "code": "b"})
    with pytest.raises(UserError, match="Mismatch with rank 0 in data and weights"):
        compare_fingerprints(
            {"data": "a", "code": "b", "weights": "c"}, {"data": "x", "code": "b", "weights": "d"}
        )


def test_rank_info_is_read_as_torchrun_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RankInfo(0, 1, 0, 1, "", 0, hosts_store=True).environment():
        monkeypatch.delenv(name, raising=False)
    assert rank_from_env() is None
    rank_info = RankInfo(3, 4, 1, 2, "10.0.0.1", 29500, hosts_store=False)
    for name, value in rank_info.environment().items():
        monkeypatch.setenv(name, value)
    assert rank_from_env() == rank_info
    assert not rank_info.is_orphaned
    assert replace(rank_info, launcher=os.getpid()).is_orphaned  # one's parent is never oneself
    config = compose_train({})
    assert set_world_size(config, rank_info).flat()["devices"] == 4
    assert set_world_size(config, None) is config
    with pytest.raises(UserError, match="--devices is 2, but torchrun started 4 processes"):
        set_world_size(compose_train({"devices": 2}), rank_info)
    with pytest.raises(UserError, match="shallow is not a network"):
        set_world_size(compose_train({"model": "shallow"}), rank_info)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert rank_from_env() is None


@pytest.mark.parametrize("has_libuv", [True, False])
def test_ranks_of_a_machine_meet_with_each_backend_of_torchs_store(
    has_libuv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # False on Windows
    monkeypatch.setattr("eyevsai.workflows.distributed.rank.HAS_LIBUV", has_libuv)
    info = RankInfo(0, 2, 0, 2, "127.0.0.1", 0, hosts_store=True, launcher=os.getpid())
    server = info.open_tcp_store()
    assert server.libuvBackend == has_libuv
    client = replace(info, rank=1, port=server.port, hosts_store=False).open_tcp_store()
    client.set("key", "value")
    assert server.get("key") == b"value"

"""The processes that share each batch of a run, and the one place in a step where they agree.

Each rank computes the gradients of its share with the bare network. Then one all-reduce exchanges
the loss sums, the running statistics, whether memory was short and whether to end. Only then does
DistributedDataParallel add up gradients: a rank that could not compute its share can still report
that, and no other rank waits for it in vain.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import Store, Work

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested
from eyevsai.training.checkpoint import Checkpoint
from eyevsai.training.oom import is_out_of_memory

# for a machine that is gone without a word; a process that died is noticed at once
TIMEOUT = timedelta(minutes=30)
POLL_S, MAX_POLL_S = 1e-5, 5e-3  # between looks at what others have to say


class WorkerLostError(JobError):
    """Another process of the run has ended, or cannot be reached."""


class SingleProcess:
    """A process by itself, which agrees with nobody and has all of each batch."""

    rank, size = 0, 1

    def begin_epoch(self, network: nn.Module) -> None:
        """To be called when it is settled which weights of `network` an epoch trains."""
        del network  # its gradients are whole already

    def all_reduce_step(
        self,
        sums: Tensor,
        oom_error: BaseException | None,
        stop: CancellationToken,  # noqa: ARG002
    ) -> Tensor:
        """Adds up `sums` (float32) over ranks; to be called in each step, when its gradients are
        computed.

        Gradients and running statistics are their means over ranks afterwards, and whoever asked
        one rank to end has asked all.

        Raises:
            MemoryError or RuntimeError: memory was too short for the `oom_error` of one of them.
            WorkerLostError: another one has ended.
        """
        if oom_error is not None:
            raise oom_error
        return sums

    def should_stop(self, stop: CancellationToken) -> bool:
        """Whether this is the step after which all of them end."""
        return stop.requested is not None

    def check(self, stop: CancellationToken) -> None:
        """Between epochs: raises what anybody was asked for."""
        stop.check()

    def predict(
        self,
        count: int,
        num_classes: int,  # noqa: ARG002
        predict: Callable[[Sequence[int]], Tensor],
    ) -> Tensor:
        """What `predict` says of the images 0 to `count`, N,C float32, a share of them asked of
        each rank.
        """
        return predict(range(count))

    def broadcast_values(self, values: Sequence[float]) -> list[float]:
        """What rank 0 has for `values`."""
        return list(values)

    def share_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """The checkpoint that rank 0 has."""
        return checkpoint


class ProcessGroup(SingleProcess):
    """The group of several processes, one of which is this one."""

    def __init__(
        self, rank: int, size: int, store: Store, explain: Callable[[Exception], str]
    ) -> None:
        """Waits for the others at `store`; `explain` says what a lost connection means."""
        self.rank, self.size = rank, size
        self.explain_failure = explain
        self._should_stop = False
        self._statistics: list[Tensor] = []
        self._ddp: nn.Module | None = None
        cuda = torch.cuda.is_available() and distributed.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        with self._translate_errors():
            distributed.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT
            )

    def begin_epoch(self, network: nn.Module) -> None:
        """Copy the trainable weights of rank 0 to all ranks, and set up the gradient all-reduce."""
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._statistics = [
            buffer
            for module in network.modules()
            if module.training and getattr(module, "track_running_stats", False)
            for buffer in module.buffers(recurse=False)
            if buffer.is_floating_point()
        ]
        self._ddp = None  # takes its hooks off the weights
        self._all_reduce(torch.zeros(1))  # what follows waits where no signal is heard
        with self._translate_errors():
            self._ddp = nn.parallel.DistributedDataParallel(_GradientHolder(weights))
            # it sorts weights anew after its first sum; a resumed run must add up in the order of
            # the one before
            self._ddp().backward()

    def all_reduce_step(
        self, sums: Tensor, oom_error: BaseException | None, stop: CancellationToken
    ) -> Tensor:
        """All-reduce loss sums, batch-norm statistics and stop flags, then gradients."""
        told = sums.new_tensor([oom_error is not None, stop.requested is not None])
        message = torch.cat([sums, told, *(each.flatten() for each in self._statistics)])
        try:
            self._all_reduce(message)
        except WorkerLostError:
            stop.check()  # all of them were asked to end, and another one was faster
            raise
        sums, (short, ended), means = (
            message[: len(sums)],
            message[len(sums) :][:2].tolist(),
            message[len(sums) + 2 :],
        )
        sizes = [each.numel() for each in self._statistics]
        for each, mean in zip(self._statistics, (means / self.size).split(sizes), strict=True):
            each.copy_(mean.view_as(each))
        self._should_stop = bool(ended)
        if short:
            raise oom_error or MemoryError("in another process of this run")
        assert self._ddp is not None
        with self._translate_errors():
            self._ddp().backward()
        return sums

    def should_stop(self, stop: CancellationToken) -> bool:  # noqa: ARG002
        """Return the stop flag of the last `all_reduce_step`, which is equal on all ranks."""
        return self._should_stop

    def check(self, stop: CancellationToken) -> None:
        """Raise on all ranks if a stop was requested on any: no rank may end by itself."""
        asked = torch.tensor([float(stop.requested is not None)])
        self._all_reduce(asked)
        if asked.item():
            raise stop.requested or TerminationRequested()

    def predict(
        self, count: int, num_classes: int, predict: Callable[[Sequence[int]], Tensor]
    ) -> Tensor:
        """Compute every `size`-th image on this rank, and all-reduce the logits."""
        logits, own = torch.zeros(count, num_classes), range(self.rank, count, self.size)
        if own:
            logits[list(own)] = predict(own)
        self._all_reduce(logits)
        return logits

    def broadcast_values(self, values: Sequence[float]) -> list[float]:
        """Return the values of rank 0, broadcast as float64."""
        settled = torch.tensor(values, dtype=torch.float64)
        self._broadcast(settled)
        return settled.tolist()

    def share_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Broadcast the checkpoint of rank 0: plain values as JSON, tensors as safetensors."""
        from safetensors.torch import load, save

        plain, tensors = b"", b""
        if checkpoint is not None:
            plain = json.dumps(checkpoint.state).encode()
            tensors = save(
                {name: tensor.contiguous().cpu() for name, tensor in checkpoint.tensors.items()}
            )
        plain, tensors = self._broadcast_bytes(plain), self._broadcast_bytes(tensors)
        return Checkpoint(load(tensors), json.loads(plain)) if plain else None

    def leave(self) -> None:
        """Ends the group for this process; others find it gone."""
        self._ddp = None
        distributed.destroy_process_group()

    def _broadcast_bytes(self, content: bytes) -> bytes:
        (length,) = self.broadcast_values([len(content)])
        shared = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == 0 and content:
            shared = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if length:
            self._broadcast(shared)
        return shared.numpy().tobytes()

    def _all_reduce(self, tensor: Tensor) -> None:
        with self._translate_errors():
            _wait_interruptibly(distributed.all_reduce(tensor, async_op=True))

    def _broadcast(self, tensor: Tensor) -> None:
        with self._translate_errors():
            _wait_interruptibly(distributed.broadcast(tensor, src=0, async_op=True))

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo, NCCL and their store raise
            if is_out_of_memory(error):  # no shorter parts help: the others are past their own
                raise JobError(
                    "Memory is too short for the sums of several devices. Try a smaller "
                    "--batch-size or --image-size."
                ) from error
            raise WorkerLostError(self.explain_failure(error)) from error


class _GradientHolder(nn.Module):
    """Weights whose gradients are there already: what is called and then differentiated adds
    nothing to them.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self) -> Tensor:
        """Zero, which depends on all weights."""
        return torch.stack([weight[None][:0].sum() for weight in self.weights]).sum()


def _wait_interruptibly(work: Work | None) -> None:
    """Waits as Python does, so that signals are heard."""
    assert work is not None
    delay_s = 0.0
    while not work.is_completed():
        time.sleep(delay_s)
        delay_s = min(delay_s + POLL_S, MAX_POLL_S)
    work.wait()


SINGLE_PROCESS = SingleProcess()
_joined: list[ProcessGroup] = []


def join_group(ranks: ProcessGroup) -> None:
    """From here on training in this process is that of a group, as `torch.distributed` has it too:
    one a process.
    """
    _joined.append(ranks)


def leave_group() -> None:
    """The process is by itself again."""
    while _joined:
        _joined.pop().leave()


def current_group() -> SingleProcess:
    """The group that this process has joined; itself alone if none."""
    return _joined[-1] if _joined else SINGLE_PROCESS

"""Process group of a run, and the all-reduce of each training step.

Each rank computes the gradients of its share of the batch with the plain network. Then one
all-reduce exchanges the loss sums, the batch-norm statistics, the out-of-memory flags and the stop
flags. Only then does DistributedDataParallel all-reduce the gradients: a rank that could not
compute its share can still report that, and no other rank waits for its gradients forever.
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

# Limits the wait for a machine that disappeared; the death of a process is detected immediately.
TIMEOUT = timedelta(minutes=30)
POLL_S, MAX_POLL_S = 1e-5, 5e-3  # increment and maximum of the polling interval


class WorkerLostError(JobError):
    """Another process of the run has ended or is unreachable."""


class SingleProcess:
    """Process group of one process, which computes whole batches."""

    rank, size = 0, 1

    def begin_epoch(self, network: nn.Module) -> None:
        """Prepare an epoch. Call after the trainable weights of `network` have been set."""
        del network  # a single process has the gradients of whole batches

    def all_reduce_step(
        self,
        sums: Tensor,
        oom_error: BaseException | None,
        stop: CancellationToken,  # noqa: ARG002
    ) -> Tensor:
        """All-reduce loss sums, batch-norm statistics and stop flags, then gradients.

        Call once per step, after the gradients have been computed. Gradients and statistics are
        then the means over all ranks, and a stop requested on any rank applies to all.

        Args:
            sums: float32 values to add up over the ranks.
            oom_error: out-of-memory error of this rank; None if its computation succeeded.
            stop: cancellation token of this rank.

        Returns:
            The sums over all ranks.

        Raises:
            MemoryError or RuntimeError: a rank was out of memory: `oom_error`, if it was this one.
                All ranks raise, and the gradients are not all-reduced; the step can be repeated.
            WorkerLostError: another rank has ended, and this one has no pending cancellation.
            BaseException: the pending cancellation of this rank, if another rank has ended.
            JobError: an all-reduce itself was out of memory.
        """
        if oom_error is not None:
            raise oom_error
        return sums

    def should_stop(self, stop: CancellationToken) -> bool:
        """Return True if all ranks must stop after this step."""
        return stop.requested is not None

    def check(self, stop: CancellationToken) -> None:
        """Raise the pending cancellation of any rank. Call between epochs, on all ranks.

        A rank without a request of its own raises TerminationRequested.
        """
        stop.check()

    def predict(
        self,
        count: int,
        num_classes: int,  # noqa: ARG002
        predict: Callable[[Sequence[int]], Tensor],
    ) -> Tensor:
        """Return the logits of `count` images, N,C float32; each rank computes a share of them.

        Args:
            count: number of images N.
            num_classes: number of classes C.
            predict: returns the logits of the images at the given indices, on the CPU.
        """
        return predict(range(count))

    def broadcast_values(self, values: Sequence[float]) -> list[float]:
        """Return the values of rank 0. All ranks must pass the same number of values."""
        return list(values)

    def share_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Return the checkpoint of rank 0, or None if rank 0 has none.

        The arguments of other ranks are ignored.
        """
        return checkpoint


class ProcessGroup(SingleProcess):
    """Process group of several ranks in `torch.distributed`."""

    def __init__(
        self, rank: int, size: int, store: Store, explain: Callable[[Exception], str]
    ) -> None:
        """Join the group, and wait until all ranks have joined.

        Args:
            rank: rank of this process.
            size: number of ranks.
            store: key-value store in which the ranks rendezvous.
            explain: returns the message of the error for a lost connection.

        Raises:
            WorkerLostError: another rank has ended, or did not join within `TIMEOUT`.
        """
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
        self._ddp = None  # removes the hooks of the last epoch from the weights
        # Waits for all ranks while signals are still handled: the next lines block them.
        self._all_reduce(torch.zeros(1))
        with self._translate_errors():
            self._ddp = nn.parallel.DistributedDataParallel(_GradientHolder(weights))
            # DDP reorders the weights after its first all-reduce. Forcing that now gives a resumed
            # run the order of summation of the interrupted one.
            self._ddp().backward()

    def all_reduce_step(
        self, sums: Tensor, oom_error: BaseException | None, stop: CancellationToken
    ) -> Tensor:
        flags = sums.new_tensor([oom_error is not None, stop.requested is not None])
        message = torch.cat([sums, flags, *(each.flatten() for each in self._statistics)])
        try:
            self._all_reduce(message)
        except WorkerLostError:
            stop.check()  # a signal to all ranks ended another one first
            raise
        sums, (num_oom, num_stopping), statistics = (
            message[: len(sums)],
            message[len(sums) :][:2].tolist(),
            message[len(sums) + 2 :],
        )
        sizes = [each.numel() for each in self._statistics]
        means = (statistics / self.size).split(sizes)
        for each, mean in zip(self._statistics, means, strict=True):
            each.copy_(mean.view_as(each))
        self._should_stop = bool(num_stopping)
        if num_oom:
            raise oom_error or MemoryError("in another process of this run")
        assert self._ddp is not None
        with self._translate_errors():
            self._ddp().backward()
        return sums

    def should_stop(self, stop: CancellationToken) -> bool:  # noqa: ARG002
        """Return the stop flag of the last `all_reduce_step`, which is equal on all ranks.

        It is False before the first one.
        """
        return self._should_stop

    def check(self, stop: CancellationToken) -> None:
        """Raise on all ranks if a stop was requested on any: no rank may end by itself."""
        num_stopping = torch.tensor([float(stop.requested is not None)])
        self._all_reduce(num_stopping)
        if num_stopping.item():
            raise stop.requested or TerminationRequested()

    def predict(
        self, count: int, num_classes: int, predict: Callable[[Sequence[int]], Tensor]
    ) -> Tensor:
        """Compute every `size`-th image on this rank, and all-reduce the logits."""
        logits, indices = torch.zeros(count, num_classes), range(self.rank, count, self.size)
        if indices:
            logits[list(indices)] = predict(indices)
        self._all_reduce(logits)
        return logits

    def broadcast_values(self, values: Sequence[float]) -> list[float]:
        """Return the values of rank 0, broadcast as float64."""
        tensor = torch.tensor(values, dtype=torch.float64)
        self._broadcast(tensor)
        return tensor.tolist()

    def share_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Broadcast the checkpoint of rank 0: plain values as JSON, tensors as safetensors.

        Returns:
            The checkpoint of rank 0, or None if rank 0 has none.
        """
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
        """Leave the group; later collective calls of other ranks raise `WorkerLostError`."""
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
        except RuntimeError as error:  # the type that gloo, NCCL and their store raise
            # Smaller micro-batches cannot help: the other ranks have passed their computation.
            if is_out_of_memory(error):
                raise JobError(
                    "Out of memory in the all-reduce over several devices. Try a smaller "
                    "--batch-size or --image-size."
                ) from error
            raise WorkerLostError(self.explain_failure(error)) from error


class _GradientHolder(nn.Module):
    """Module that makes DistributedDataParallel all-reduce gradients that exist already.

    Its backward pass adds zeros to the gradients of its weights.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self) -> Tensor:
        """Return a scalar zero whose graph contains all weights."""
        return torch.stack([weight[None][:0].sum() for weight in self.weights]).sum()


def _wait_interruptibly(work: Work | None) -> None:
    """Wait for `work` by polling, so that Python handles signals meanwhile.

    torch returns None only outside the process group, which fails an assertion.

    Raises:
        RuntimeError: the collective call failed.
    """
    assert work is not None
    delay_s = 0.0
    while not work.is_completed():
        time.sleep(delay_s)
        delay_s = min(delay_s + POLL_S, MAX_POLL_S)
    work.wait()


SINGLE_PROCESS = SingleProcess()
_active_groups: list[ProcessGroup] = []


def join_group(group: ProcessGroup) -> None:
    """Make `group` the process group of all training in this process until `leave_group`."""
    _active_groups.append(group)


def leave_group() -> None:
    """Leave the joined process group; do nothing if none was joined."""
    while _active_groups:
        _active_groups.pop().leave()


def current_group() -> SingleProcess:
    """Return the joined process group, or the one of this process alone."""
    return _active_groups[-1] if _active_groups else SINGLE_PROCESS

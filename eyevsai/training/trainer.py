"""The training loop of all torch families."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from eyevsai.core.errors import JobError, TerminationRequested
from eyevsai.core.progress import track
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import derive_seed
from eyevsai.training.batches import Batches, check_batches
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.device import find_precision, setup_device
from eyevsai.training.early_stopping import selection_key, should_stop_early
from eyevsai.training.ema import ModelEma
from eyevsai.training.inference import predict_logits, predictor
from eyevsai.training.loss import balanced_weights, micro_batch_loss
from eyevsai.training.oom import is_out_of_memory, release_memory
from eyevsai.training.optimizer import build_optimizer, set_lrs
from eyevsai.training.process_group import current_group
from eyevsai.training.settings import TrainingSettings
from eyevsai.training.strategy import TrainingStrategy
from eyevsai.training.trainer_state import (
    Components,
    EpochMetrics,
    TrainerState,
    load_state_dict,
    state_dict,
)

log = logging.getLogger("eyevsai")

OnEpoch = Callable[[int, EpochMetrics], None]
MAX_HALVINGS = 5  # times that a batch is split in two when memory is short


class Trainer:
    """Fits a network to a train split and leaves it with the weights of its best epoch."""

    def __init__(
        self,
        strategy: TrainingStrategy,
        settings: TrainingSettings,
        preprocessing: Preprocessing,
        seed: int,
    ) -> None:
        self.strategy = strategy
        self.network = strategy.network
        self.settings = settings
        self.preprocessing = preprocessing
        self.seed = seed

    def fit(
        self, train: Split, valid: Split, on_epoch: OnEpoch, checkpoints: Checkpoints | None = None
    ) -> None:
        """Trains until the epochs are used up or `patience` ends it; calls `on_epoch(epoch, row)`.

        Where this process has joined a group, it computes its share of each batch, and all end with
        the same weights.

        Rows hold train/loss, train/accuracy, valid/loss, valid/accuracy, lr, images_per_s,
        grad_accum_steps, and what the course says of its epochs. The best epoch is the one of the
        highest `selection_key`. Where `checkpoints` has one, training goes on from it, after
        `on_epoch` was called again for the epochs before.

        Raises:
            UserError: batch size and data do not fit each other.
            JobError: loss or gradient became NaN or infinite, the weights being as before that
                step; or memory or disk is too small; or another process of the group has ended.
            BaseException: what `checkpoints.stop` was asked for, after a checkpoint was saved.
        """
        check_batches(self.settings, len(train))
        self._checkpoints = checkpoints or Checkpoints()
        with (
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
            self._checkpoints.stop.shielded(),
        ):
            self._prepare(train)
            self._restore()
            self.strategy.prepare(
                self._state.epoch, (train, valid), self.preprocessing, self._checkpoints.stop
            )
            for epoch, row in enumerate(self._state.history, start=1):
                on_epoch(epoch, row)
            while not self._is_done():
                epoch = self._state.epoch
                row = self._train_epoch(epoch) | self._evaluate(valid, epoch)
                self.strategy.end_epoch(epoch, row["valid/loss"])
                self._keep_best(epoch, row)
                self._state.end_epoch(row)
                self._save()  # what is told of an epoch is on disk before
                on_epoch(epoch, row)
                self._group.check(self._checkpoints.stop)
        self.network.load_state_dict(self._best_state)
        self.network.requires_grad_(True).eval()

    def _is_done(self) -> bool:
        state = self._state
        if state.epoch > self.strategy.num_epochs:
            return True
        waited = self.strategy.epochs_without_improvement(len(state.history), state.best_epoch)
        if should_stop_early(self.settings.patience, waited):
            log.info("No better valid/accuracy for %d epochs: stopping.", self.settings.patience)
            return True
        return False

    def _prepare(self, train: Split) -> None:
        self._device = setup_device(self.settings)
        self._precision = find_precision(self.settings.precision, self._device)
        self._group = current_group()
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        self.network.to(device=self._device, memory_format=layout)  # type: ignore[call-overload]
        self._optimizer = build_optimizer(self.strategy.lr_groups, self.settings)
        self._scaler = torch.amp.GradScaler(
            self._device.type, enabled=self._precision == torch.float16
        )
        self._num_classes = int(train.labels.max()) + 1
        self._batches = Batches(
            train,
            self.strategy,
            self.settings,
            self.preprocessing,
            self.seed,
            self._group,
            self._device,
            self._num_classes,
        )
        self._weights: Tensor | None = None
        if self.settings.class_weights:
            self._weights = balanced_weights(train.labels, self._num_classes).to(self._device)
        zero = torch.zeros((), device=self._device)
        self._state = TrainerState(zero, zero.clone(), micro_batches=self.settings.parts)
        self._best_state: dict[str, Tensor] = {}
        self._ema = ModelEma(self.network, self.settings.ema_decay)
        self._dropouts = [
            (each, each.p) for each in self.network.modules() if isinstance(each, nn.Dropout)
        ]

    def _save(self) -> None:
        self._checkpoints.save(*state_dict(self._state, self._components()))

    def _restore(self) -> None:
        checkpoint = self._group.share_checkpoint(self._checkpoints.load())
        if checkpoint is not None:
            self._state = load_state_dict(checkpoint, self._components(), self._device)
            log.info("Going on in epoch %d after step %d.", self._state.epoch, self._state.steps)

    def _components(self) -> Components:
        return Components(self.strategy, self._optimizer, self._scaler, self._ema, self._best_state)

    def _train_epoch(self, epoch: int) -> EpochMetrics:
        state = self.strategy.begin_epoch(epoch)
        self._group.begin_epoch(self.network)
        self._unchanged = self.strategy.unchanged(epoch)
        for dropout, rate in self._dropouts:
            dropout.p = rate * min(1.0, epoch / max(self.settings.dropout_warmup_epochs, 1e-9))
        progress, began = self._state, time.perf_counter() - self._state.seconds
        batches = self._batches.order(epoch)
        left = batches[progress.steps :]
        label, images = f"Epoch {epoch} of {self.strategy.num_epochs}", sum(map(len, left))
        for indices in track(left, label, total=images, unit=self.settings.batch_size):
            set_lrs(
                self._optimizer,
                self.strategy.lrs_at(epoch - 1 + (progress.steps + 1) / len(batches)),
            )
            self._step_within_memory(indices, epoch, progress.steps)
            progress.steps, progress.seconds = progress.steps + 1, time.perf_counter() - began
            self._pause()
        return {
            "train/loss": progress.loss.item() / progress.images,
            "train/accuracy": progress.correct.item() / progress.images,
            "lr": self.strategy.lrs_at(epoch)[0],
            "images_per_s": progress.images / progress.seconds,
            "grad_accum_steps": progress.micro_batches,
            **state,
        }

    def _pause(self) -> None:
        """Between two steps: saves when it is time, and ends when all ranks know that they are
        to.
        """
        stop = self._checkpoints.stop
        is_due, ends = self._checkpoints.is_due(), self._group.should_stop(stop)
        if is_due or ends:
            self._save()
        if ends:
            raise stop.requested or TerminationRequested()

    def _step_within_memory(self, indices: Tensor, epoch: int, step: int) -> None:
        """One step; where memory is short, the same batch in twice as many parts, and so for the
        rest of the run.
        """
        for halvings in range(MAX_HALVINGS + 1):
            try:
                return self._step(indices, epoch, step)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                parts = 2 * self._state.micro_batches
                if halvings == MAX_HALVINGS or 2 * parts * self._group.size > len(indices):
                    raise JobError(
                        f"Out of memory even with each batch in {self._state.micro_batches} "
                        "parts. Try a smaller --image-size or a smaller network."
                    ) from error
            release_memory(self._optimizer)
            self._state.micro_batches = parts
            log.warning("Out of memory: computing each batch in %d parts from here on.", parts)

    def _step(self, indices: Tensor, epoch: int, step: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        sums, shortage = torch.zeros(2, device=self._device), None  # loss, correct
        try:
            self._compute(indices, epoch, step, sums)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            shortage = error.with_traceback(None)  # whose frames hold what was computed so far
        loss, correct = self._group.all_reduce_step(sums, shortage, self._checkpoints.stop)
        self._update(loss, epoch, step)
        self._state.loss += loss * len(indices)
        self._state.correct += correct
        self._state.images += len(indices)

    def _compute(self, indices: Tensor, epoch: int, step: int, sums: Tensor) -> None:
        """Gradients of what is this process's of a batch; adds its loss and the number of right
        answers to `sums`.
        """
        labels, parts = self._batches.load(indices, epoch, step, self._state.micro_batches)
        for part in parts:
            purpose = ("step", epoch, step, part.number) if part.number else ("step", epoch, step)
            # dropout draws from the global generator
            torch.manual_seed(derive_seed(self.seed, *purpose))
            logits, loss = self._backward(
                self.strategy.trained_module(epoch), part.inputs, part.targets, labels
            )
            targets = part.targets.argmax(1) if part.targets.ndim == 2 else part.targets
            sums += torch.stack([loss, (logits.argmax(1) == targets).sum()])

    def _backward(
        self, trained: nn.Module, inputs: Tensor, targets: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits and loss of a part of a batch, whose gradient is added."""
        if self.settings.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self._device.type, self._precision, enabled=self._precision != torch.float32
        ):
            logits = trained(inputs)
        loss = micro_batch_loss(
            logits, targets, labels, self._weights, self.settings.label_smoothing
        )
        # of ranks' gradients the mean is taken
        self._scaler.scale(loss * self._group.size).backward()
        return logits.detach(), loss.detach()

    def _update(self, loss: Tensor, epoch: int, step: int) -> None:
        """Moves the weights, unless loss or gradient is not finite."""
        self._scaler.unscale_(self._optimizer)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # the scaler skips its own overflows
        checked = loss if self._scaler.is_enabled() else loss + norm
        if not torch.isfinite(checked):
            raise JobError(
                f"Loss or gradient became NaN or infinite in epoch {epoch}, step {step + 1} "
                f"(loss {loss.item():g}, gradient norm {norm.item():g}, lr "
                f"{self._optimizer.param_groups[0]['lr']:g}). The update was not made. Try a "
                "lower --lr, a smaller --clip-grad or --precision float32."
            )
        if self.settings.clip_grad:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.clip_grad, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._ema.update(self._unchanged)

    def _evaluate(self, valid: Split, epoch: int) -> EpochMetrics:
        network = self._ema.eval_model
        logits = self.strategy.valid_logits(epoch, network)
        if logits is None:
            whole = predictor(network, tta_flip=self.settings.tta_flip)

            def predict(rows: Sequence[int]) -> Tensor:
                return predict_logits(whole, self.preprocessing, list(valid.images(rows)))

            logits = self._group.predict(len(valid), self._num_classes, predict)
        accuracy = (logits.argmax(1) == valid.labels).double().mean().item()
        loss = nn.functional.cross_entropy(logits, valid.labels).item()
        # what ends the run and chooses weights is one for all
        loss, accuracy = self._group.broadcast_values([loss, accuracy])
        if not math.isfinite(loss):
            raise JobError(
                "The loss on valid became NaN or infinite. Try a lower --lr or --precision float32."
            )
        return {"valid/loss": loss, "valid/accuracy": accuracy}

    def _keep_best(self, epoch: int, row: EpochMetrics) -> None:
        if selection_key(row) > self._state.best_key:
            self._state.best_epoch, self._state.best_key = epoch, selection_key(row)
            # state_dict() alone aliases the weights
            self._best_state = copy.deepcopy(self._ema.eval_model.state_dict())

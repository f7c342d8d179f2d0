"""Training loop of all torch families."""

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
from eyevsai.core.quantities import format_count
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
from eyevsai.training.pace import Pace, SharedPace
from eyevsai.training.process_group import current_group
from eyevsai.training.settings import TrainingSettings
from eyevsai.training.strategy import TrainingStrategy
from eyevsai.training.strided_depthwise import StridedDepthwise
from eyevsai.training.trainer_state import (
    Components,
    EpochMetrics,
    TrainerState,
    load_state_dict,
    state_dict,
)
from eyevsai.training.weight_averaging import WeightAverager

log = logging.getLogger("eyevsai")

OnEpoch = Callable[[int, EpochMetrics], None]
MAX_HALVINGS = 5  # maximum halvings of the micro-batch size per step when memory runs out


class Trainer:
    """Training loop with early stopping, checkpoints and recovery from a lack of memory."""

    def __init__(
        self,
        strategy: TrainingStrategy,
        settings: TrainingSettings,
        preprocessing: Preprocessing,
        seed: int,
    ) -> None:
        """Configure the training; `fit` starts it.

        Args:
            strategy: network, and the modules and learning rates of each epoch.
            settings: settings of the training.
            preprocessing: preprocessing of the network.
            seed: seed of the sample order, augmentation, mixing and dropout.
        """
        self.strategy = strategy
        self.network = strategy.network
        self.settings = settings
        self.preprocessing = preprocessing
        self.seed = seed

    def fit(
        self,
        train: Split,
        valid: Split,
        on_epoch: OnEpoch,
        checkpoints: Checkpoints | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Train the network until its last epoch, early stopping or the end of its time budget.

        The network ends in eval mode with the weights of its best epoch, the one with the highest
        `selection_key`. If this process has joined a process group, it computes its share of each
        batch, and all ranks end with the same weights.

        The metrics of an epoch are train/loss, train/accuracy, valid/loss, valid/accuracy, lr,
        images_per_s, grad_accum_steps, and those that the strategy adds.

        Args:
            train: split to train on.
            valid: split to evaluate each epoch on.
            on_epoch: called with the epoch, from 1, and its metrics after each epoch.
            checkpoints: checkpoints of the run. If they contain one, training resumes from it,
                after `on_epoch` has been called again for the completed epochs.
            pace: pace of the training; by default, that of the strategy's number of epochs.

        Raises:
            UserError: the batch size does not fit the data.
            JobError: loss or gradient became NaN or infinite, in which case the weights are those
                before the step; memory or disk space is too small; or another rank has ended.
            BaseException: the cancellation that `checkpoints.stop` requests, after a checkpoint was
                saved.
        """
        check_batches(self.settings, len(train))
        self._checkpoints = checkpoints or Checkpoints()
        with (
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
            self._checkpoints.stop.shielded(),
        ):
            self._prepare(train)
            self._start_pace(pace or Pace())
            self._restore()
            phase, splits = self._pace.phase(self._state.epoch), (train, valid)
            self.strategy.prepare(phase, splits, self.preprocessing, self._checkpoints.stop)
            for epoch, metrics in enumerate(self._state.history, start=1):
                on_epoch(epoch, metrics)
            while not self._is_finished():
                epoch = self._state.epoch
                metrics = self._train_epoch(epoch) | self._evaluate_timed(valid)
                self.strategy.end_epoch(self._pace.phase(epoch), metrics["valid/loss"])
                self._keep_best(epoch, metrics)
                self._state.is_finished = self._is_last(epoch)
                if self._state.is_finished:
                    metrics |= self._average_weights(epoch, metrics, valid)
                self._state.end_epoch(metrics)
                self._save()  # before `on_epoch`, so that no reported epoch can get lost
                on_epoch(epoch, metrics)
                self._group.check(self._checkpoints.stop)
        self.network.load_state_dict(self._best_state)
        self.network.requires_grad_(True).eval()

    def _is_finished(self) -> bool:
        return self._state.is_finished or self._pace.is_over(self._state.epoch)

    def _is_last(self, epoch: int) -> bool:
        """Return True if the training ends after `epoch`."""
        if self._pace.is_over(epoch + 1):
            return True
        patience, best_epoch = self.settings.patience, self._state.best_epoch
        if should_stop_early(patience, epoch, best_epoch, self._is_counted):
            log.info(
                "Stopping: no better valid/accuracy for %s.",
                format_count(patience, "epoch"),
            )
            return True
        return False

    def _is_counted(self, epoch: int) -> bool:
        """Return True if `epoch` counts for early stopping; see `last_change`."""
        return self._pace.phase(epoch) > self.strategy.last_change()

    def _prepare(self, train: Split) -> None:
        self._device = setup_device(self.settings)
        self._precision = find_precision(self.settings.precision, self._device)
        self._group = current_group()
        self.strategy.initialize(train, self.preprocessing, self.seed, self._group)
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
        self._state = TrainerState(
            zero, zero.clone(), micro_batches=self.settings.num_micro_batches
        )
        self._best_state: dict[str, Tensor] = {}
        self._ema = ModelEma(self.network, self.settings.ema_decay)
        self._averager = WeightAverager(self.network, self.strategy.averaged_from)
        self._dropouts = [
            (each, each.p) for each in self.network.modules() if isinstance(each, nn.Dropout)
        ]

    def _start_pace(self, pace: Pace) -> None:
        is_shared = self.settings.minutes is not None and self._group.size > 1
        self._pace = SharedPace(pace, self._group.broadcast_values) if is_shared else pace
        self._pace.start(self.strategy.num_epochs, self.strategy.cost_at)

    def _save(self) -> None:
        self._state.pace = self._pace.state_dict()
        self._checkpoints.save(*state_dict(self._state, self._components()))

    def _restore(self) -> None:
        checkpoint = self._group.share_checkpoint(self._checkpoints.load())
        if checkpoint is not None:
            self._state = load_state_dict(checkpoint, self._components(), self._device)
            self._pace.load_state_dict(self._state.pace)
            log.info("Resuming at epoch %d, step %d.", self._state.epoch, self._state.steps)

    def _components(self) -> Components:
        unchanged = self.strategy.unchanged(self._pace.phase(self._state.epoch))
        return Components(
            self.strategy,
            self._optimizer,
            self._scaler,
            self._ema,
            self._averager,
            self._best_state,
            unchanged,
        )

    def _train_epoch(self, epoch: int) -> EpochMetrics:
        self._phase = self._pace.phase(epoch)
        strategy_metrics = self.strategy.begin_epoch(self._phase)
        self._group.begin_epoch(self.network)
        self._unchanged = self.strategy.unchanged(self._phase)
        if self.strategy.is_fine_tuning(self._phase):
            self._averager.begin_fine_tuning(self._ema.eval_model)
        if (solved := self._solve(epoch)) is not None:
            return solved | strategy_metrics
        state, start_s = self._state, time.perf_counter() - self._state.seconds
        batches = self._batches.order(epoch)
        remaining = batches[state.steps :]
        label, images = self._pace.label(epoch), sum(map(len, remaining))
        for indices in track(remaining, label, total=images, unit=self.settings.batch_size):
            position = self._pace.next_position(epoch, state.steps, len(batches))
            if position is None:
                break  # the end of the time budget
            set_lrs(self._optimizer, self.strategy.lrs_at(position))
            self._set_dropout(position)
            self._position = position
            self._step_with_oom_retry(indices, epoch, state.steps)
            state.steps, state.seconds = state.steps + 1, time.perf_counter() - start_s
            self._save_or_stop_if_due()
        return {
            "train/loss": state.loss.item() / state.images,
            "train/accuracy": state.correct.item() / state.images,
            "lr": self.strategy.lrs_at(self._pace.end_of(epoch))[0],
            "images_per_s": state.images / state.seconds,
            "grad_accum_steps": state.micro_batches,
            **strategy_metrics,
        }

    def _solve(self, epoch: int) -> EpochMetrics | None:
        """Return the metrics of an epoch that the strategy solves at once; None for other ones."""
        start = time.perf_counter()
        stop, is_late = self._checkpoints.stop, self._pace.is_late
        solved = self.strategy.solve(self._phase, stop, is_late, self._group)
        if solved is None:
            return None
        self._pace.next_position(epoch, 0, 1)
        self._ema.update(self._unchanged)
        seconds = time.perf_counter() - start
        return {
            **solved,
            "lr": 0.0,
            "images_per_s": len(self._batches.train) / seconds,
            "grad_accum_steps": self._state.micro_batches,
        }

    def _set_dropout(self, position: float) -> None:
        """Set the dropout rates `position` epochs after the start; they rise during the warm-up."""
        share = min(1.0, position / max(self.settings.dropout_warmup_epochs, 1e-9))
        for dropout, rate in self._dropouts:
            dropout.p = rate * share

    def _save_or_stop_if_due(self) -> None:
        """Save a checkpoint if one is due or all ranks must stop; then raise the cancellation."""
        stop = self._checkpoints.stop
        is_due, must_stop = self._checkpoints.is_due(), self._group.should_stop(stop)
        if is_due or must_stop:
            self._save()
        if must_stop:
            raise stop.requested or TerminationRequested()

    def _step_with_oom_retry(self, indices: Tensor, epoch: int, step: int) -> None:
        """Run a step. Out of memory, retry with twice the micro-batches, also in later steps."""
        for halvings in range(MAX_HALVINGS + 1):
            try:
                return self._step(indices, epoch, step)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                micro_batches = 2 * self._state.micro_batches
                if halvings == MAX_HALVINGS or 2 * micro_batches * self._group.size > len(indices):
                    raise JobError(
                        f"Out of memory with {self._state.micro_batches} micro-batches per batch. "
                        "Try a smaller --image-size or a smaller network."
                    ) from error
            release_memory(self._optimizer)
            self._state.micro_batches = micro_batches
            log.warning("Out of memory: using %d micro-batches from now on.", micro_batches)

    def _step(self, indices: Tensor, epoch: int, step: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        sums, oom_error = torch.zeros(2, device=self._device), None  # loss, correct predictions
        try:
            self._accumulate_gradients(indices, epoch, step, sums)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            # The frames of the traceback would keep the activations in memory.
            oom_error = error.with_traceback(None)
        loss, correct = self._group.all_reduce_step(sums, oom_error, self._checkpoints.stop)
        self._update_weights(loss, epoch, step)
        self._state.loss += loss * len(indices)
        self._state.correct += correct
        self._state.images += len(indices)

    def _accumulate_gradients(self, indices: Tensor, epoch: int, step: int, sums: Tensor) -> None:
        """Accumulate the gradients of this rank's micro-batches.

        Adds their loss and their number of correct predictions to `sums`.
        """
        labels, micro_batches = self._batches.load(
            indices, epoch, step, self._state.micro_batches, self._phase, position=self._position
        )
        for part in micro_batches:
            purpose = ("step", epoch, step, part.number) if part.number else ("step", epoch, step)
            # Dropout draws from the global generator.
            torch.manual_seed(derive_seed(self.seed, *purpose))
            logits, loss = self._backward(
                self.strategy.trained_module(self._phase), part.inputs, part.targets, labels
            )
            targets = part.targets.argmax(1) if part.targets.ndim == 2 else part.targets
            sums += torch.stack([loss, (logits.argmax(1) == targets).sum()])

    def _backward(
        self, module: nn.Module, inputs: Tensor, targets: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of a micro-batch; return its logits and its share of the loss.

        Args:
            module: module that takes the inputs.
            inputs: M,3,S,S images or M,D features.
            targets: labels of the micro-batch.
            labels: labels of the whole batch.
        """
        if self.settings.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with (
            torch.autocast(
                self._device.type, self._precision, enabled=self._precision != torch.float32
            ),
            StridedDepthwise(),
        ):
            logits = module(inputs)
        loss = micro_batch_loss(
            logits, targets, labels, self._weights, self.settings.label_smoothing
        )
        # DistributedDataParallel averages the gradients over the ranks; the sum is needed.
        self._scaler.scale(loss * self._group.size).backward()
        return logits.detach(), loss.detach()

    def _update_weights(self, loss: Tensor, epoch: int, step: int) -> None:
        """Make an optimizer step; raise JobError before it if loss or gradient is not finite."""
        self._scaler.unscale_(self._optimizer)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # An enabled scaler skips steps whose scaled gradients overflow.
        total = loss if self._scaler.is_enabled() else loss + norm
        if not torch.isfinite(total):
            raise JobError(
                f"Loss or gradient became NaN or infinite in epoch {epoch}, step {step + 1} "
                f"(loss {loss.item():g}, gradient norm {norm.item():g}, lr "
                f"{self._optimizer.param_groups[0]['lr']:g}). The weights were not updated. "
                "Try a lower --lr, a smaller --clip-grad or --precision float32."
            )
        if self.settings.clip_grad:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.clip_grad, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._ema.update(self._unchanged)

    def _evaluate_timed(self, valid: Split) -> EpochMetrics:
        """Return the metrics of the valid split, and pass their duration to the pace."""
        start = time.perf_counter()
        metrics = self._evaluate(valid)
        self._pace.end_evaluation(time.perf_counter() - start)
        return metrics

    def _evaluate(self, valid: Split) -> EpochMetrics:
        network = self._ema.eval_model
        logits = self.strategy.valid_logits(self._phase, network)
        if logits is None:
            eval_network = predictor(network, tta_flip=self.settings.tta_flip)

            def predict(rows: Sequence[int]) -> Tensor:
                return predict_logits(eval_network, self.preprocessing, valid.images(rows))

            logits = self._group.predict(len(valid), self._num_classes, predict)
        accuracy = (logits.argmax(1) == valid.labels).double().mean().item()
        loss = nn.functional.cross_entropy(logits, valid.labels).item()
        # All ranks must select the same best epoch and stop at the same one.
        loss, accuracy = self._group.broadcast_values([loss, accuracy])
        if not math.isfinite(loss):
            raise JobError(
                "The validation loss became NaN or infinite. Try a lower --lr or --precision "
                "float32."
            )
        return {"valid/loss": loss, "valid/accuracy": accuracy}

    def _average_weights(self, epoch: int, metrics: EpochMetrics, valid: Split) -> EpochMetrics:
        """Replace the weights of the last epoch by a better average; see `WeightAverager`.

        Returns:
            The metrics of the best average, and its share of the fine-tuned weights; those of the
            epoch if it is better than all averages.
        """
        if not self._averager.is_ready:
            return {}
        best: EpochMetrics = {name: metrics[name] for name in ("valid/loss", "valid/accuracy")}
        best["fine_tuned_share"] = 1.0
        for share in self._averager.averages(self._ema.eval_model):
            self._group.check(self._checkpoints.stop)
            candidate = self._evaluate(valid)
            self._keep_best(epoch, candidate)
            if selection_key(candidate) > selection_key(best):
                best = candidate | {"fine_tuned_share": share}
        log.info(
            "Averages with the weights before fine-tuning: valid accuracy %.4f with a share of "
            "%.1f of the fine-tuned weights; %.4f with these alone.",
            best["valid/accuracy"],
            best["fine_tuned_share"],
            metrics["valid/accuracy"],
        )
        return best

    def _keep_best(self, epoch: int, metrics: EpochMetrics) -> None:
        if selection_key(metrics) > self._state.best_key:
            self._state.best_epoch, self._state.best_key = epoch, selection_key(metrics)
            # A copy, since the tensors of state_dict() share memory with the weights.
            self._best_state = copy.deepcopy(self._ema.eval_model.state_dict())

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
from eyevsai.training.average import Average
from eyevsai.training.batches import Batches, check_batches
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.course import Course
from eyevsai.training.device import find_precision, prepare
from eyevsai.training.group import find_group
from eyevsai.training.inference import predict_logits, predictor
from eyevsai.training.loss import balanced_weights, part_loss
from eyevsai.training.memory import is_out_of_memory, release_memory
from eyevsai.training.optimizer import build_optimizer, set_rates
from eyevsai.training.settings import TrainingSettings
from eyevsai.training.state import Parts, Progress, Row, pack, unpack

log = logging.getLogger("eyevsai")

OnEpoch = Callable[[int, Row], None]
MAX_HALVINGS = 5  # times that a batch is split in two when memory is short


def rank(row: Row) -> tuple[float, float]:
    """What the best epoch is the highest of: valid/accuracy, ties going to the lower valid/loss."""
    return row["valid/accuracy"], -row["valid/loss"]


class Trainer:
    """Fits a network to a train split and leaves it with the weights of its best epoch."""

    def __init__(
        self, course: Course, settings: TrainingSettings, preprocessing: Preprocessing, seed: int
    ) -> None:
        self.course = course
        self.network = course.network
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
        accumulation, and what the course says of its epochs. The best epoch is the one of the
        highest `rank`. Where `checkpoints` has one, training goes on from it, after `on_epoch` was
        called again for the epochs before.

        Raises:
            UserError: batch size and data do not fit each other.
            JobError: loss or gradient became NaN or infinite, the weights being as before that
                step;
                or memory or disk is too small; or another process of the group has ended.
            BaseException: what `checkpoints.stop` was asked for, after a checkpoint was saved.
        """
        check_batches(self.settings, len(train))
        self.checkpoints_ = checkpoints or Checkpoints()
        with (
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
            self.checkpoints_.stop.shielded(),
        ):
            self._prepare(train)
            self._restore()
            self.course.prepare(
                self.progress_.epoch, (train, valid), self.preprocessing, self.checkpoints_.stop
            )
            for epoch, row in enumerate(self.progress_.rows, start=1):
                on_epoch(epoch, row)
            while not self._is_done():
                epoch = self.progress_.epoch
                row = self._train_epoch(epoch) | self._evaluate(valid, epoch)
                self.course.observe(epoch, row["valid/loss"])
                self._keep_best(epoch, row)
                self.progress_.end_epoch(row)
                self._save()  # what is told of an epoch is on disk before
                on_epoch(epoch, row)
                self.group_.check(self.checkpoints_.stop)
        self.network.load_state_dict(self.best_state_)
        self.network.requires_grad_(True).eval()

    def _is_done(self) -> bool:
        progress, patience = self.progress_, self.settings.patience
        is_done = progress.epoch > self.course.num_epochs
        if (
            patience
            and not is_done
            and self.course.waited(len(progress.rows), progress.best_epoch) >= patience
        ):
            log.info("No better valid/accuracy for %d epochs: stopping.", patience)
            return True
        return is_done

    def _prepare(self, train: Split) -> None:
        self.device_ = prepare(self.settings)
        self.precision_ = find_precision(self.settings.precision, self.device_)
        self.group_ = find_group()
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        self.network.to(device=self.device_, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer_ = build_optimizer(self.course.parts, self.settings)
        self.scaler_ = torch.amp.GradScaler(
            self.device_.type, enabled=self.precision_ == torch.float16
        )
        self.num_classes_ = int(train.labels.max()) + 1
        self.batches_ = Batches(
            train,
            self.course,
            self.settings,
            self.preprocessing,
            self.seed,
            self.group_,
            self.device_,
            self.num_classes_,
        )
        self.weights_: Tensor | None = None
        if self.settings.class_weights:
            self.weights_ = balanced_weights(train.labels, self.num_classes_).to(self.device_)
        zero = torch.zeros((), device=self.device_)
        self.progress_ = Progress(zero, zero.clone(), parts=self.settings.parts)
        self.best_state_: dict[str, Tensor] = {}
        self.average_ = Average(self.network, self.settings.ema_decay)
        self.dropouts_ = [
            (each, each.p) for each in self.network.modules() if isinstance(each, nn.Dropout)
        ]

    def _save(self) -> None:
        self.checkpoints_.save(*pack(self.progress_, self._parts()))

    def _restore(self) -> None:
        checkpoint = self.group_.share_checkpoint(self.checkpoints_.load())
        if checkpoint is not None:
            self.progress_ = unpack(checkpoint, self._parts(), self.device_)
            log.info(
                "Going on in epoch %d after step %d.", self.progress_.epoch, self.progress_.steps
            )

    def _parts(self) -> Parts:
        return Parts(self.course, self.optimizer_, self.scaler_, self.average_, self.best_state_)

    def _train_epoch(self, epoch: int) -> Row:
        state = self.course.begin(epoch)
        self.group_.begin_epoch(self.network)
        self.untouched_ = self.course.untouched(epoch)
        for dropout, rate in self.dropouts_:
            dropout.p = rate * min(1.0, epoch / max(self.settings.dropout_warmup_epochs, 1e-9))
        progress, began = self.progress_, time.perf_counter() - self.progress_.seconds
        batches = self.batches_.order(epoch)
        left = batches[progress.steps :]
        label, images = f"Epoch {epoch} of {self.course.num_epochs}", sum(map(len, left))
        for places in track(left, label, total=images, unit=self.settings.batch_size):
            set_rates(
                self.optimizer_, self.course.rates(epoch - 1 + (progress.steps + 1) / len(batches))
            )
            self._step_within_memory(places, epoch, progress.steps)
            progress.steps, progress.seconds = progress.steps + 1, time.perf_counter() - began
            self._pause()
        return {
            "train/loss": progress.loss.item() / progress.images,
            "train/accuracy": progress.correct.item() / progress.images,
            "lr": self.course.rates(epoch)[0],
            "images_per_s": progress.images / progress.seconds,
            "accumulation": progress.parts,
            **state,
        }

    def _pause(self) -> None:
        """Between two steps: saves when it is time, and ends when all ranks know that they are
        to.
        """
        stop = self.checkpoints_.stop
        is_due, ends = self.checkpoints_.is_due(), self.group_.ends(stop)
        if is_due or ends:
            self._save()
        if ends:
            raise stop.requested or TerminationRequested()

    def _step_within_memory(self, places: Tensor, epoch: int, step: int) -> None:
        """One step; where memory is short, the same batch in twice as many parts, and so for the
        rest of the run.
        """
        for halvings in range(MAX_HALVINGS + 1):
            try:
                return self._step(places, epoch, step)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                parts = 2 * self.progress_.parts
                if halvings == MAX_HALVINGS or 2 * parts * self.group_.size > len(places):
                    raise JobError(
                        f"Out of memory even with each batch in {self.progress_.parts} parts. "
                        "Try a smaller --image-size or a smaller network."
                    ) from error
            release_memory(self.optimizer_)
            self.progress_.parts = parts
            log.warning("Out of memory: computing each batch in %d parts from here on.", parts)

    def _step(self, places: Tensor, epoch: int, step: int) -> None:
        self.optimizer_.zero_grad(set_to_none=True)
        sums, shortage = torch.zeros(2, device=self.device_), None  # loss, correct
        try:
            self._compute(places, epoch, step, sums)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            shortage = error.with_traceback(None)  # whose frames hold what was computed so far
        loss, correct = self.group_.agree(sums, shortage, self.checkpoints_.stop)
        self._update(loss, epoch, step)
        self.progress_.loss += loss * len(places)
        self.progress_.correct += correct
        self.progress_.images += len(places)

    def _compute(self, places: Tensor, epoch: int, step: int, sums: Tensor) -> None:
        """Gradients of what is this process's of a batch; adds its loss and the number of right
        answers to `sums`.
        """
        labels, parts = self.batches_.draw(places, epoch, step, self.progress_.parts)
        for part in parts:
            purpose = ("step", epoch, step, part.number) if part.number else ("step", epoch, step)
            # dropout draws from the global generator
            torch.manual_seed(derive_seed(self.seed, *purpose))
            logits, loss = self._backward(
                self.course.trained(epoch), part.inputs, part.targets, labels
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
            self.device_.type, self.precision_, enabled=self.precision_ != torch.float32
        ):
            logits = trained(inputs)
        loss = part_loss(logits, targets, labels, self.weights_, self.settings.label_smoothing)
        # of ranks' gradients the mean is taken
        self.scaler_.scale(loss * self.group_.size).backward()
        return logits.detach(), loss.detach()

    def _update(self, loss: Tensor, epoch: int, step: int) -> None:
        """Moves the weights, unless loss or gradient is not finite."""
        self.scaler_.unscale_(self.optimizer_)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # the scaler skips its own overflows
        checked = loss if self.scaler_.is_enabled() else loss + norm
        if not torch.isfinite(checked):
            raise JobError(
                f"Loss or gradient became NaN or infinite in epoch {epoch}, step {step + 1} "
                f"(loss {loss.item():g}, "
                f"gradient norm {norm.item():g}, lr {self.optimizer_.param_groups[0]['lr']:g}). "
                "The update was not made. Try a lower --lr, a smaller --clip-norm or "
                "--precision float32."
            )
        if self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.clip_norm, norm)
        self.scaler_.step(self.optimizer_)
        self.scaler_.update()
        self.average_.update(self.untouched_)

    def _evaluate(self, valid: Split, epoch: int) -> Row:
        network = self.average_.best_guess
        logits = self.course.valid_logits(epoch, network)
        if logits is None:
            whole = predictor(network, test_flips=self.settings.test_flips)

            def predict(rows: Sequence[int]) -> Tensor:
                return predict_logits(whole, self.preprocessing, list(valid.images(rows)))

            logits = self.group_.predict(len(valid), self.num_classes_, predict)
        accuracy = (logits.argmax(1) == valid.labels).double().mean().item()
        loss = nn.functional.cross_entropy(logits, valid.labels).item()
        # what ends the run and chooses weights is one for all
        loss, accuracy = self.group_.settle([loss, accuracy])
        if not math.isfinite(loss):
            raise JobError(
                "The loss on valid became NaN or infinite. Try a lower --lr or --precision float32."
            )
        return {"valid/loss": loss, "valid/accuracy": accuracy}

    def _keep_best(self, epoch: int, row: Row) -> None:
        if rank(row) > self.progress_.best_rank:
            self.progress_.best_epoch, self.progress_.best_rank = epoch, rank(row)
            # state_dict() alone aliases the weights
            self.best_state_ = copy.deepcopy(self.average_.best_guess.state_dict())

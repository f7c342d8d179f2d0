"""The training loop of all torch families."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyevsai.data.augmentation import augment
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.randomness import generator_for, seed_for
from eyevsai.errors import RunFailed, UserError
from eyevsai.progress import track
from eyevsai.training.device import find_precision, prepare
from eyevsai.training.loss import balanced_weights, part_loss
from eyevsai.training.optimizer import Schedule, build_optimizer, set_rate
from eyevsai.training.settings import TrainingSettings

log = logging.getLogger("eyevsai")

Row = dict[str, float]
OnEpoch = Callable[[int, Row], None]
EVALUATION_BATCH = 128


def rank(row: Row) -> tuple[float, float]:
    """What the best epoch is the highest of: valid/accuracy, ties going to the lower valid/loss."""
    return row["valid/accuracy"], -row["valid/loss"]


@dataclass
class Totals:
    """Sums over the images that an epoch has seen so far."""

    loss: Tensor
    correct: Tensor
    images: int = 0


class Trainer:
    """Fits a network to a train split and leaves it with the weights of its best epoch."""

    def __init__(self, network: nn.Module, settings: TrainingSettings, preprocessing: Preprocessing, seed: int) -> None:
        self.network = network
        self.settings = settings
        self.preprocessing = preprocessing
        self.seed = seed

    def fit(self, train: Split, valid: Split, on_epoch: OnEpoch) -> None:
        """Trains until the epochs are used up or `patience` ends it; calls `on_epoch(epoch, row)`.

        Rows hold train/loss, train/accuracy, valid/loss, valid/accuracy, lr and images_per_s.
        The best epoch is the one of the highest `rank`.

        Raises:
            UserError: batch size and data do not fit each other.
            RunFailed: loss or gradient became NaN or infinite; the weights are as before that step.
        """
        check_batches(self.settings, len(train))
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            self._prepare(train)
            for epoch in range(1, self.settings.epochs + 1):
                row = self._train_epoch(train, epoch) | self._evaluate(valid)
                self.schedule_.observe(row["valid/loss"])
                self._keep_best(epoch, row)
                on_epoch(epoch, row)
                if self.settings.patience and epoch - self.best_epoch_ >= self.settings.patience:
                    log.info("No better valid/accuracy for %d epochs: stopping.", self.settings.patience)
                    break
        self.network.load_state_dict(self.best_state_)
        self.network.eval()

    def _prepare(self, train: Split) -> None:
        self.device_ = prepare(self.settings)
        self.precision_ = find_precision(self.settings.precision, self.device_)
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        self.network.to(device=self.device_, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer_ = build_optimizer(self.network, self.settings)
        self.schedule_ = Schedule(self.settings)
        self.scaler_ = torch.amp.GradScaler(self.device_.type, enabled=self.precision_ == torch.float16)
        self.weights_: Tensor | None = None
        if self.settings.class_weights:
            num_classes = int(train.labels.max()) + 1
            self.weights_ = balanced_weights(train.labels, num_classes).to(self.device_)
        self.best_epoch_, self.best_rank_ = 0, (-math.inf, -math.inf)

    def _train_epoch(self, train: Split, epoch: int) -> Row:
        self.network.train()
        totals = Totals(torch.zeros((), device=self.device_), torch.zeros((), device=self.device_))
        began = time.perf_counter()
        batches = list(self._batches(len(train), epoch))
        for step, places in enumerate(track(batches, f"Epoch {epoch}", total=len(batches))):
            set_rate(self.optimizer_, self.schedule_.rate(epoch - 1 + (step + 1) / len(batches)))
            self._step(train, places, epoch, step, totals)
        return {
            "train/loss": totals.loss.item() / totals.images,
            "train/accuracy": totals.correct.item() / totals.images,
            "lr": self.optimizer_.param_groups[0]["lr"],
            "images_per_s": totals.images / (time.perf_counter() - began),
        }

    def _batches(self, count: int, epoch: int) -> Iterator[Tensor]:
        order = torch.randperm(count, generator=generator_for(self.seed, "order", epoch))
        for places in order.split(self.settings.batch_size):
            if len(places) >= 2 * self.settings.accumulation:  # batch normalisation needs two images
                yield places

    def _step(self, train: Split, places: Tensor, epoch: int, step: int, totals: Totals) -> None:
        generator = generator_for(self.seed, "augment", epoch, step)
        torch.manual_seed(seed_for(self.seed, "step", epoch, step))  # dropout draws from the global generator
        images = list(train.images(places.tolist()))
        labels = train.labels[places].to(self.device_)
        batch = augment(images, self.settings, self.preprocessing, generator, self.device_)
        parts = self.settings.accumulation
        self.optimizer_.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device_)
        for inputs, targets in zip(batch.tensor_split(parts), labels.tensor_split(parts), strict=True):
            loss += self._backward(inputs, targets, labels, totals)
        self._update(loss, epoch, step)
        totals.loss += loss * len(labels)
        totals.images += len(labels)

    def _backward(self, inputs: Tensor, targets: Tensor, labels: Tensor, totals: Totals) -> Tensor:
        if self.settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device_.type, self.precision_, enabled=self.precision_ != torch.float32):
            logits = self.network(inputs)
        loss = part_loss(logits, targets, labels, self.weights_, self.settings.label_smoothing)
        self.scaler_.scale(loss).backward()
        totals.correct += (logits.argmax(1) == targets).sum()
        return loss.detach()

    def _update(self, loss: Tensor, epoch: int, step: int) -> None:
        """Moves the weights, unless loss or gradient is not finite."""
        self.scaler_.unscale_(self.optimizer_)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        checked = loss if self.scaler_.is_enabled() else loss + norm  # the scaler skips its own overflows
        if not torch.isfinite(checked):
            raise RunFailed(
                f"Loss or gradient became NaN or infinite in epoch {epoch}, step {step + 1} (loss {loss.item():g}, "
                f"gradient norm {norm.item():g}, lr {self.optimizer_.param_groups[0]['lr']:g}). "
                "The update was not made. Try a lower --lr, a smaller --clip-norm or --precision float32."
            )
        if self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.clip_norm, norm)
        self.scaler_.step(self.optimizer_)
        self.scaler_.update()

    def _evaluate(self, valid: Split) -> Row:
        logits = predict_logits(self.network, self.preprocessing, list(valid.images()))
        loss = nn.functional.cross_entropy(logits, valid.labels).item()
        if not math.isfinite(loss):
            raise RunFailed("The loss on valid became NaN or infinite. Try a lower --lr or --precision float32.")
        accuracy = (logits.argmax(1) == valid.labels).double().mean().item()
        return {"valid/loss": loss, "valid/accuracy": accuracy}

    def _keep_best(self, epoch: int, row: Row) -> None:
        if rank(row) > self.best_rank_:
            self.best_epoch_, self.best_rank_ = epoch, rank(row)
            self.best_state_ = copy.deepcopy(self.network.state_dict())  # state_dict() alone aliases the weights


@torch.inference_mode()
def predict_logits(network: nn.Module, preprocessing: Preprocessing, images: list[Tensor]) -> Tensor:
    """Images H,W,3 uint8 of any sizes -> N,C float32 logits on the CPU, computed in float32."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    outputs = []
    for start in range(0, len(images), EVALUATION_BATCH):
        crops = torch.cat([preprocessing.crop(image[None]) for image in images[start : start + EVALUATION_BATCH]])
        outputs.append(network(preprocessing.normalize(crops.to(device))).float().cpu())
    network.train(training)
    return torch.cat(outputs)


def check_batches(settings: TrainingSettings, num_images: int) -> None:
    """Raises UserError when the batch size fits neither the data nor the accumulation."""
    if settings.batch_size > num_images:
        raise UserError(
            f"--batch-size {settings.batch_size} is larger than the train split of {num_images} images. "
            f"Choose at most {num_images}."
        )
    if settings.batch_size % settings.accumulation or settings.batch_size < 2 * settings.accumulation:
        raise UserError(
            f"--accumulation {settings.accumulation} must divide --batch-size {settings.batch_size} "
            "into parts of two images or more."
        )

"""Cost of `mlflow.pytorch.autolog` per epoch of a Lightning training."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import mlflow
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

BLOCKS = 5  # pairs of a training without and with logging, whose median difference counts


class Linear(pl.LightningModule):
    """A linear layer: training takes next to no time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def training_step(self, batch: Any, number: int) -> Any:
        loss, accuracy = self._metrics(batch)
        self.log_dict(
            {"train_loss": loss, "train_accuracy": accuracy}, on_step=False, on_epoch=True
        )
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        loss, accuracy = self._metrics(batch)
        self.log_dict({"valid_loss": loss, "valid_accuracy": accuracy})
        # three more, so that both projects log seven metrics
        self.log_dict({"lr": 1e-3, "images_per_s": 1.0, "grad_accum_steps": 1.0})

    def _metrics(self, batch: Any) -> tuple[Any, Any]:
        inputs, targets = batch
        logits = self.layer(inputs)
        accuracy = (logits.argmax(1) == targets).float().mean()
        return torch.nn.functional.cross_entropy(logits, targets), accuracy

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Clock(pl.Callback):
    """Time of the start of the first epoch."""

    start = 0.0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.start = self.start or time.perf_counter()


def _seconds(epochs: int) -> float:
    """Train; return the seconds from the start of the first epoch to the end."""
    images = TensorDataset(torch.randn(64, 8), torch.randint(0, 2, (64,)))
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        callbacks=[clock],
    )
    trainer.fit(Linear(), DataLoader(images, 32), DataLoader(images, 32))
    return time.perf_counter() - clock.start


def tracking(store: str, epochs: int) -> dict[str, float]:
    """Return milliseconds per epoch that logging adds, all writes to the store included."""
    mlflow.set_tracking_uri(store)
    mlflow.set_experiment("autolog")
    differences = []
    for number in range(BLOCKS + 1):  # the first one warms up
        mlflow.pytorch.autolog(disable=True)
        plain = _seconds(epochs)
        mlflow.pytorch.autolog(disable=False, log_models=False, checkpoint=False)
        logged = _seconds(epochs)
        if number:
            differences.append(1000 * (logged - plain) / epochs)
    run = mlflow.search_runs(search_all_experiments=True, max_results=1).iloc[0]
    client = mlflow.MlflowClient()
    written = client.get_metric_history(run.run_id, "valid_accuracy")
    if len(written) != epochs:
        raise SystemExit(f"{len(written)} of {epochs} epochs are in the store")
    return {"epoch_ms": statistics.median(differences)}


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)

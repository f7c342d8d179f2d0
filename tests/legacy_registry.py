"""A registry as the original writes it, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def make_record(number: int, **changed: Any) -> dict[str, Any]:
    """A model of the original, as it stood in its training_registry.json."""
    version, folder = (
        f"v20250705_{number:08x}",
        f"/home/somebody/models/deep_v2/resnet/pets/{number}",
    )
    settings = {
        "learning_rate": 0.1,
        "dropout_rates": [0.4, 0.3, 0.2],
        "use_cbam": True,
        "max_depth": None,
    }
    return {
        "model_id": f"model_{number:012x}",
        "registered_at": "2025-07-05T12:20:14.886351",
        "session_id": "session_1",
        "model_type": "deep_v2",
        "variation": "resnet",
        "dataset": "pets",
        "version": version,
        "metrics": {
            "best_validation_accuracy": 0.49,
            "final_train_accuracy": 0.6,
            "total_epochs": 30,
            "note": "text",
        },
        "best_validation_accuracy": 0.49,
        "training_time_seconds": 3600.5,
        "hyperparameters": {"learning_rate": 0.3},
        "final_hyperparameters": settings,
        "tuning_results": None,
        "model_path": folder,
        "config_path": f"{folder}/config.json",
        "log_path": "",
        "checkpoint_path": "",
        "model_files": {
            "pytorch_model": [{"path": f"{folder}/model.pth", "size_mb": 186.2, "exists": True}],
            "config": [{"path": f"{folder}/config.json", "size_mb": 0.1, "exists": True}] * 2,
            "logs": [{"path": f"{folder}/gone.log", "exists": False}],
        },
        "gpu_used": None,
        "cuda_version": "12.8",
        "pytorch_version": None,
        "training_status": "completed",
        "export_status": "pending",
        "production_ready": False,
        "notes": "",
        "tags": ["night", "long"],
    } | changed


def write_registry(path: Path, *records: dict[str, Any]) -> Path:
    models = {record["model_id"]: record for record in records}
    path.write_text(
        json.dumps(
            {"version": "1.0", "total_models": len(models), "models": models, "sessions": {}}
        )
    )
    return path

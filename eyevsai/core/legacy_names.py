"""Former names of settings, translated when a stored file is read.

Files of models, runs and studies are never rewritten, because their checksums are recorded: they
keep the names of the version that wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTING_NAMES = {
    "accumulation": "grad_accum_steps",
    "cache_root": "cache_dir",
    "clip_norm": "clip_grad",
    "data_root": "data_dir",
    "erasing": "random_erasing",
    "freeze_base_epochs": "freeze_epochs",
    "frozen_views": "feature_views",
    "lr_floor": "min_lr_ratio",
    "mix_share": "mixup_prob",
    "policy": "auto_augment",
    "stage_lr_decay": "layer_decay",
    "state_root": "state_dir",
    "step_epochs": "decay_epochs",
    "step_factor": "decay_rate",
    "test_flips": "tta_flip",
}


def rename_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings under their current names; other names are unchanged."""
    return {SETTING_NAMES.get(name, name): value for name, value in settings.items()}

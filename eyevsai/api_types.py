"""The keywords of the API, for editors and type checkers.

`eyevsai train --model M --help` explains them.

Written by `python -m eyevsai.codegen`; change the declarations, not this file.
"""

from __future__ import annotations

import os
from typing import Literal, Required, TypedDict

Text = str | os.PathLike[str]


class TrialKeywords(TypedDict, total=False):
    """What trials and trainings have in common."""

    model: Text
    variation: Text | None
    preset: Literal["cpu", "gpu"]
    dataset: Text
    data: Text | None
    data_dir: Text
    dataset_name: Text | None
    labels: Text | None
    groups: Text | None
    duplicates: Literal["near", "exact", "off"]
    bit_depth: Literal["auto", "8", "10", "12", "14", "16", "float1", "float255"]
    class_change: bool
    cache_dir: Text
    max_bad_fraction: float
    cache_limit_gb: float
    valid_fraction: float
    test_fraction: float
    split_seed: int
    seed: int
    run_name: Text | None
    state_dir: Text
    image_size: int
    class_weights: bool
    batch_size: int
    grad_accum_steps: int
    optimizer: Literal["adamw", "adam", "sgd"]
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "step", "plateau", "constant"]
    warmup_epochs: float
    min_lr_ratio: float
    decay_epochs: int
    decay_rate: float
    plateau_patience: int
    label_smoothing: float
    clip_grad: float
    patience: int
    crop_scale: float
    crop_ratio: float
    flip: bool
    rotation: float
    brightness: float
    contrast: float
    saturation: float
    random_erasing: float
    auto_augment: Literal["none", "trivial", "rand"]
    mixup: float
    cutmix: float
    mixup_prob: float
    ema_decay: float
    dropout_warmup_epochs: float
    tta_flip: bool
    threads: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    memory_efficient: bool
    channels_last: bool
    epochs: int
    width: int
    convolutions: int
    dropout: float
    head_units: int
    layers: Text
    use_se: bool
    use_cbam: bool
    attention: Literal["none", "self"]
    attention_reduction: int
    attention_heads: int
    separable: bool
    stochastic_depth: float
    gradient_checkpointing: bool
    growth_rate: int
    features: Text
    hog_cells: int
    hog_orientations: int
    hog_color: bool
    lbp_neighbours: Literal["8", "16", "both"]
    color_hues: int
    color_tones: int
    pyramid_levels: int
    square_root: bool
    standardize: bool
    reduction: Literal["none", "pca", "svd"]
    components: int
    C: float
    kernel: Literal["rbf", "linear", "poly"]
    gamma: float | None
    degree: int
    n_estimators: int
    max_depth: int | None
    min_samples_leaf: int
    freeze_epochs: int
    fine_tune_epochs: int
    unfreeze_stages: int
    fine_tune_lr: float
    layer_decay: float
    feature_views: int
    weights: Text
    mean: Text | None
    std: Text | None
    interpolation: Literal["bilinear", "bicubic"] | None
    dense_units: Text


class TrainKeywords(TrialKeywords, total=False):
    """Of `train`; those of a family are for its models alone."""

    tuned: Text
    checkpoint_every_s: float
    resume: Text | None
    resume_force: bool
    devices: int


class TuneKeywords(TrialKeywords, total=False):
    """Of `tune`."""

    n_trials: int
    study: Text | None
    sampler: Literal["tpe", "random", "gp", "cmaes", "grid"]
    pruner: Literal["hyperband", "median", "none"]
    space: Text | None
    storage: Text | None
    parallel_jobs: int
    timeout: float | None
    trial_timeout: float | None
    target_value: float | None
    executor: Literal["local", "ray"]
    ray_address: Text | None
    cpus_per_job: int | None
    gpus_per_job: float


class EvaluateKeywords(TypedDict, total=False):
    """Of `evaluate`."""

    run: Text | None
    model_uri: Text | None
    data_dir: Text | None
    cache_dir: Text | None
    state_dir: Text
    data: Text | None
    class_map: Text | None
    target_precision: float | None
    corruption_images: int


class ExportKeywords(TypedDict, total=False):
    """Of `export`."""

    run: Text | None
    model_uri: Text | None
    data_dir: Text | None
    cache_dir: Text | None
    state_dir: Text
    format: Text
    output: Text | None
    per_dataset: int
    prune: float
    prune_epochs: int
    parity_images: int
    calibration_images: int


class PackageKeywords(ExportKeywords, total=False):
    """Of a package."""

    package: Required[str]

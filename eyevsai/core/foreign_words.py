"""Words of other tools for commands, options and values, and what to use here instead.

Each table is plain data: to support a word as a command or an option, delete its line here. Texts
are sentences, as they end error messages.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# option here: its names in other tools
SYNONYMS = {
    "model": ("arch", "architecture", "backbone", "network", "net", "family", "model_name"),
    "models": ("model", "family", "families", "arch", "architectures"),
    "datasets": ("dataset",),
    "variation": ("variant",),
    "lr": ("lr0", "learning_rate", "base_lr", "initial_lr", "max_lr", "eta"),
    "epochs": ("num_epochs", "n_epochs", "nb_epochs", "max_epochs", "num_train_epochs"),
    "minutes": ("time_limit", "time_budget", "max_time", "time", "budget"),
    "batch_size": ("batch", "bs", "b", "per_device_train_batch_size"),
    "image_size": ("imgsz", "img_size", "img", "input_size", "crop_size", "resolution", "size"),
    "crop_margin": ("crop_pct",),
    "translate": ("shift", "shift_limit", "translation"),
    "weight_decay": ("wd", "l2"),
    "optimizer": ("opt",),
    "schedule": ("sched", "scheduler", "lr_scheduler", "cos_lr"),
    "warmup_epochs": ("warmup",),
    "patience": ("early_stopping", "early_stopping_patience"),
    "precision": ("amp", "fp16", "bf16", "half", "mixed_precision", "dtype"),
    "device": ("gpu", "cuda", "use_gpu", "accelerator", "device_id"),
    "devices": ("gpus", "num_gpus", "ngpus", "nproc", "nproc_per_node", "world_size"),
    "seed": ("random_state", "random_seed", "manual_seed"),
    "run_name": ("name", "experiment_id", "exp_name"),
    "ema_decay": ("ema", "model_ema", "model_ema_decay"),
    "label_smoothing": ("smoothing",),
    "grad_accum_steps": ("accumulate", "accumulate_grad_batches", "gradient_accumulation_steps"),
    "valid_fraction": ("val_split", "validation_split", "valid_split", "val_size", "val_fraction"),
    "test_fraction": ("test_split", "test_size"),
    "data": (
        "data_path",
        "path",
        "root",
        "folder",
        "dir",
        "input",
        "images",
        "source",
        "train_data",
    ),
    "weights": ("initial_checkpoint", "checkpoint", "ckpt", "ckpt_path", "init"),
    "n_trials": ("trials", "num_trials", "num_samples"),
    "parallel_jobs": ("n_jobs", "jobs"),
    "format": ("include", "to", "target"),
    "output": ("out", "o", "output_dir", "save_dir"),
    "threshold": ("conf", "confidence"),
    "top_k": ("topk", "k"),
    "run": ("run_id",),
    "model_uri": ("uri", "model", "weights", "checkpoint", "ckpt_path", "ckpt"),
    "class_map": ("map",),
}

CLASSES = "Classes are the names of the class folders in --data, or the labels of --labels."
FOLDERS = "Put train, valid and test folders into one folder, and pass that with --data."
MODEL_FIRST = "Name the model and the images as arguments: eyevsai predict MODEL IMAGES."
ARTIFACTS = (
    "Results are artifacts of the run: eyevsai ui shows them, and eyevsai export --output FOLDER "
    "writes the model."
)
THREADS = "Images are decoded in parallel without an option; --threads limits CPU threads."
STORE = "Runs are stored with MLflow: set MLFLOW_TRACKING_URI, and use --experiment NAME."
EXPERIMENT = "Use --experiment."

# option of other tools: what to use instead. `COMMAND --option` applies to that command only.
OPTIONS = {
    "--num_classes": CLASSES,
    "--nc": CLASSES,
    "--n_classes": CLASSES,
    "--classes": CLASSES,
    "--class_names": CLASSES,
    "--train_dir": FOLDERS,
    "--val_dir": FOLDERS,
    "--valid_dir": FOLDERS,
    "--test_dir": FOLDERS,
    "--train": FOLDERS,
    "--val": FOLDERS,
    "--pretrained": "Models of the family transfer are pretrained: --model transfer/resnet50; "
    "--weights PATH loads your own weights.",
    "--workers": THREADS,
    "--num_workers": THREADS,
    "--project": STORE,
    "--experiment_name": EXPERIMENT,
    "--tracking_uri": STORE,
    "--log_dir": STORE,
    "train --output": ARTIFACTS,
    "train --output_dir": ARTIFACTS,
    "train --save_dir": ARTIFACTS,
    "train-all --variation": "Use --models FAMILY/VARIATION.",
    "train-all --data": "Use --data-dir with the parent folder, and --datasets with the folder's "
    "name.",
    "export --int8": "Use --format onnx-int8.",
    "export --quantize": "Use --format onnx-int8.",
    "export --half": "Use --format openvino-bf16.",
    "export --fp16": "Use --format openvino-bf16.",
    "export --opset": "The ONNX export has the lowest opset that its graph allows.",
    "predict --source": MODEL_FIRST,
    "predict --input": MODEL_FIRST,
    "predict --image": MODEL_FIRST,
    "predict --images": MODEL_FIRST,
    "predict --data": MODEL_FIRST,
    "predict --model": MODEL_FIRST,
    "predict --model_uri": MODEL_FIRST,
    "predict --run": "Name the registered version of the run: eyevsai predict NAME/VERSION IMAGES.",
    "predict --weights": MODEL_FIRST,
    "predict --checkpoint": MODEL_FIRST,
}

RESUME = "Use: eyevsai train --resume RUN_ID, or --resume auto for the last run."
EVALUATE = "Use: eyevsai evaluate NAME/VERSION."
PREDICT = "Use: eyevsai predict MODEL IMAGES."

# command of other tools: what to use instead. `GROUP COMMAND` applies to that group only.
COMMANDS = {
    "resume": RESUME,
    "continue": RESUME,
    "fit": "Use: eyevsai train.",
    "finetune": "Use: eyevsai train --model transfer --data FOLDER.",
    "fine-tune": "Use: eyevsai train --model transfer --data FOLDER.",
    "test": EVALUATE,
    "val": EVALUATE,
    "validate": EVALUATE,
    "eval": EVALUATE,
    "score": EVALUATE,
    "benchmark": EVALUATE,
    "classify": PREDICT,
    "infer": PREDICT,
    "inference": PREDICT,
    "detect": PREDICT,
    "convert": "Use: eyevsai export NAME/VERSION --format FORMAT.",
    "onnx": "Use: eyevsai export NAME/VERSION --format onnx.",
    "deploy": "Use: eyevsai promote NAME/VERSION, or eyevsai export.",
    "register": "Training registers each version. To promote one: eyevsai promote NAME/VERSION.",
    "search": "Use: eyevsai tune.",
    "hpo": "Use: eyevsai tune.",
    "optimize": "Use: eyevsai tune.",
    "sweep": "Use: eyevsai tune for settings, or eyevsai train-all for models and datasets.",
    "models": "Use: eyevsai list for families, or eyevsai registry status for trained models.",
    "datasets": "Use: eyevsai list.",
    "runs": "Use: eyevsai ui.",
    "dashboard": "Use: eyevsai ui.",
    "server": "Use: eyevsai ui.",
    "summary": "Use: eyevsai describe FAMILY/VARIATION.",
    "info": "Use: eyevsai describe FAMILY/VARIATION, or eyevsai doctor.",
    "delete": "Use: eyevsai cleanup.",
    "gc": "Use: eyevsai cleanup.",
    "version": "Use: eyevsai --version.",
    "help": "Use: eyevsai --help.",
    "registry list": "Use: eyevsai registry status.",
    "registry ls": "Use: eyevsai registry status.",
    "registry show": "Use: eyevsai registry status NAME.",
    "registry history": "Use: eyevsai registry log NAME.",
    "data validate": "Use: eyevsai data check FOLDER.",
    "data verify": "Use: eyevsai data check FOLDER.",
}

GPU = "For a GPU of NVIDIA or AMD: --device cuda; of Apple: --device mps."
# setting: pattern of a value in other tools, and what to use instead; groups fill the text
VALUES: dict[str, tuple[tuple[str, str], ...]] = {
    "device": (
        (r"gpu|(?:gpu|cuda|mps)?:?0", GPU),
        (r"(?:gpu|cuda)?:?(\d+)", "Set CUDA_VISIBLE_DEVICES={1}, and use --device cuda."),
        (r"\d+(?:,\d+)+", "Set CUDA_VISIBLE_DEVICES={0}, and use --device cuda --devices NUMBER."),
        (r"xla|tpu|xpu|npu|directml", "Use --device cpu."),
    ),
    "precision": (
        (r"fp32|32(-true)?|single|full", "Use --precision float32."),
        (r"bf16|bf16-(mixed|true)", "Use --precision bfloat16."),
        (r"fp16|16(-mixed|-true)?|half|amp|mixed", "Use --precision float16, or auto."),
    ),
}


def advise_command(name: str) -> str | None:
    """Return what to use instead of a command of other tools; None for any other word."""
    return COMMANDS.get(name.lower().replace("_", "-"))


def advise_option(name: str, options: Collection[str], command: str) -> str | None:
    """Return what to use instead of an option of other tools; None for any other word.

    Args:
        name: name of the unknown setting, with underscores.
        options: names of the settings of the command.
        command: name of the command, for advice that applies to it only.
    """
    name = name.lower()
    for flag in (f"{command} --{name}", f"--{name}"):
        if flag in OPTIONS:
            return OPTIONS[flag]
    for option, synonyms in SYNONYMS.items():
        if name in synonyms and option in options:
            return f"Use --{option.replace('_', '-')}."
    return None


def advise_value(setting: str, value: object) -> str | None:
    """Return what to use instead of a value of other tools; None for any other value."""
    for pattern, text in VALUES.get(setting, ()):
        if match := re.fullmatch(pattern, str(value), re.IGNORECASE):
            return text.format(match[0], *match.groups())
    return None

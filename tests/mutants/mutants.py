"""Single-line mutants of the code: each breaks one promise of README, docs or the table of
requirements.

`old` occurs in one line of `path`; `new` replaces it.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One changed line, and the promise that it breaks."""

    promise: str
    path: str
    old: str
    new: str


MUTANTS = [
    Mutant(
        "1: an interrupted run resumes at its step",
        "eyevsai/training/trainer.py",
        "remaining = batches[state.steps :]",
        "remaining = batches",
    ),
    Mutant(
        "1: resume restores the state of the loop",
        "eyevsai/training/trainer.py",
        "self._state = load_state_dict(checkpoint, self._components(), self._device)",
        "load_state_dict(checkpoint, self._components(), self._device)",
    ),
    Mutant(
        "2: a fresh store is created once",
        "eyevsai/store/backend.py",
        "with lock_store(uri):",
        "with nullcontext():",
    ),
    Mutant(
        "3: a file of another format than its name is named",
        "eyevsai/data/image_checks.py",
        "return bool(record.kind) and file.path.suffix.lower() not in "
        "SUFFIXES_OF.get(record.kind, set())",
        "return False",
    ),
    Mutant(
        "4: an outage loses nothing",
        "eyevsai/tracking/write_queue.py",
        "if not size or not is_permanent(error):",
        "if not size:",
    ),
    Mutant(
        "5: a stale run is marked FAILED",
        "eyevsai/tracking/stale_runs.py",
        'client.set_terminated(run_id, "FAILED")',
        'client.set_terminated(run_id, "FINISHED")',
    ),
    Mutant(
        "5: a run of another host is left alone",
        "eyevsai/tracking/liveness.py",
        'if process["host"] != current["host"]:',
        "if False:",
    ),
    Mutant(
        "5: SIGTERM exits with 143",
        "eyevsai/workflows/shutdown.py",
        "self.requested = TerminationRequested() if number == signal.SIGTERM else "
        "KeyboardInterrupt()",
        "self.requested = KeyboardInterrupt()",
    ),
    Mutant(
        "5: a step that hangs does not hold up the end",
        "eyevsai/workflows/shutdown.py",
        "self.timer.start()",
        "pass",
    ),
    Mutant(
        "7: one version is in Production",
        "eyevsai/registry/stages.py",
        'return assigned or ("Archived" if version.stage in STAGES.values() else version.stage)',
        "return assigned or version.stage",
    ),
    Mutant(
        "8: cleanup keeps a version with an alias",
        "eyevsai/registry/retention.py",
        "if version.aliases:",
        "if False:",
    ),
    Mutant(
        "8: cleanup keeps the newest N",
        "eyevsai/registry/retention.py",
        "newest = {version.number for version in model.versions[-keep:]} if keep else set()",
        "newest = {version.number for version in model.versions[:keep]} if keep else set()",
    ),
    Mutant(
        "9: copies stay in one split", "eyevsai/data/duplicates.py", "parent[other] = one", "pass"
    ),
    Mutant(
        "9: a group is split as a whole",
        "eyevsai/data/split.py",
        "groups.setdefault(item.group, []).append(row)",
        "groups.setdefault(row, []).append(row)",
    ),
    Mutant(
        "10: a model folder with foreign files is refused",
        "eyevsai/serving/model_dir.py",
        "if path.is_symlink() or (not path.is_dir() and name not in allowed):",
        "if path.is_symlink():",
    ),
    Mutant(
        "11: dropout depends on the seed, the epoch and the step",
        "eyevsai/training/trainer.py",
        "torch.manual_seed(derive_seed(self.seed, *purpose))",
        "pass",
    ),
    Mutant(
        "12: an infinite loss stops training",
        "eyevsai/training/trainer.py",
        "if not torch.isfinite(total):",
        "if torch.isnan(total):",
    ),
    Mutant(
        "13, 23: the checkpoint before stays",
        "eyevsai/training/checkpoint.py",
        "write_atomically(self.folder / PREVIOUS, newest, durable=True)",
        "pass",
    ),
    Mutant(
        "14: an interrupted trial is run again",
        "eyevsai/tuning/study.py",
        'self._exclude(trial, "interrupted")',
        "pass",
    ),
    Mutant(
        "15: failed jobs of train-all are named",
        "eyevsai/workflows/sweep/train_all.py",
        "_raise_failures(jobs, len(config.jobs))",
        "pass",
    ),
    Mutant(
        "16: a batch that does not fit is halved",
        "eyevsai/training/trainer.py",
        "micro_batches = 2 * self._state.micro_batches",
        "micro_batches = self._state.micro_batches",
    ),
    Mutant(
        "17: images are turned as EXIF says",
        "eyevsai/data/decode.py",
        "return image if turn is None else image.transpose(turn)",
        "return image",
    ),
    Mutant(
        "18: too many pixels are refused",
        "eyevsai/data/decode.py",
        "if image.width * image.height > MAX_PIXELS:",
        "if False:",
    ),
    Mutant(
        "19: links do not lead in circles",
        "eyevsai/data/files.py",
        "if identity in ancestors:",
        "if False:",
    ),
    Mutant(
        "20: nothing leaves the folder of an archive",
        "eyevsai/data/archives.py",
        'if ".." in parts:',
        "if False:",
    ),
    Mutant(
        "21: an export that disagrees is refused",
        "eyevsai/formats/parity.py",
        "if largest.max() > bounds.largest:",
        "if False:",
    ),
    Mutant(
        "23: a flipped bit of a checkpoint is found",
        "eyevsai/training/checkpoint.py",
        'if hash_file(tensors) != body["sha256"]:',
        "if False:",
    ),
    Mutant(
        "23: a changed export is refused",
        "eyevsai/formats/manifest.py",
        "if path.is_symlink() or hash_file(path) != files[name]:",
        "if path.is_symlink():",
    ),
    Mutant(
        "24: a registered name holds no foreign characters",
        "eyevsai/core/names.py",
        'character if re.match(REGISTERED, character) else "_" for',
        "character for",
    ),
    Mutant(
        "25: a published password is refused",
        "deploy/serve.py",
        "if password in PUBLISHED_PASSWORDS:",
        "if False:",
    ),
    Mutant(
        "flags go before presets",
        "eyevsai/config.py",
        "settings = declared.settings(**defaults | _select_values(declared.settings, values))",
        "settings = declared.settings(**_select_values(declared.settings, values) | defaults)",
    ),
    Mutant(
        "flags go before a study's settings",
        "eyevsai/workflows/train/tuned_settings.py",
        "and name not in config.explicit",
        "and True",
    ),
    Mutant(
        "the best epoch's weights are registered",
        "eyevsai/training/trainer.py",
        "self.network.load_state_dict(self._best_state)",
        "pass",
    ),
    Mutant(
        "unfreezing: frozen stages keep their statistics",
        "eyevsai/training/gradual_unfreezing.py",
        "stage.requires_grad_(number >= frozen).train(number >= frozen)",
        "stage.requires_grad_(number >= frozen).train()",
    ),
    Mutant(
        "biases are not decayed",
        "eyevsai/training/optimizer.py",
        'groups += [decayed, {"params": small, "weight_decay": 0.0, "part": number}]',
        'groups += [decayed, {"params": small, "weight_decay": settings.weight_decay, "part": '
        "number}]",
    ),
    Mutant(
        "a temperature that does not help is not used",
        "eyevsai/evaluation/calibration.py",
        "return best if loss(best) < loss(1.0) else 1.0",
        "return best * 1.5",
    ),
    Mutant(
        "compare: McNemar's test counts disagreements",
        "eyevsai/evaluation/significance.py",
        "count = only_first + only_second",
        "count = len(first)",
    ),
    Mutant(
        "the lowest threshold with the wanted precision",
        "eyevsai/evaluation/selective.py",
        "return float(ranked[enough[-1]]) if len(enough) else None",
        "return float(ranked[enough[0]]) if len(enough) else None",
    ),
    Mutant(
        "Grad-CAM speaks for the class that is asked for",
        "eyevsai/explanation/grad_cam.py",
        "(gradient,) = torch.autograd.grad(logits[0, number], captured[0])",
        "(gradient,) = torch.autograd.grad(logits[0, 0], captured[0])",
    ),
    Mutant(
        "HOG is scikit-image's",
        "eyevsai/features/hog.py",
        "clipped = (blocks / _length(blocks)).clamp(max=CLIP)",
        "clipped = blocks / _length(blocks)",
    ),
    Mutant(
        "promotion: a policy's limits hold",
        "eyevsai/workflows/registry/promotion_checks.py",
        "value <= limit,",
        "True,",
    ),
    Mutant(
        "promotion: a refused version stays where it is",
        "eyevsai/workflows/registry/promote.py",
        "_check_allowed(results, settings, version.uri)",
        "pass",
    ),
    Mutant(
        "rollback restores the version before",
        "eyevsai/registry/audit_log.py",
        "if entry.before is not None and entry.before in existing and entry.before != current:",
        "if entry.before is not None and entry.before in existing:",
    ),
    Mutant(
        "train-all: a model that is done is not trained again",
        "eyevsai/workflows/sweep/train_all.py",
        "if cached.version and not any(remaining.values()):",
        "if False:",
    ),
    Mutant(
        "predict says when it is not sure",
        "eyevsai/serving/classifier.py",
        "min_probability = (self.threshold or 0.0) if unsure else 0.0",
        "min_probability = 0.0",
    ),
    Mutant(
        "a job's processes end with it",
        "eyevsai/executors/local.py",
        "self.kill()  # processes that the task started may still run",
        "pass",
    ),
    Mutant(
        "parameters that `mlflow run` logged are not logged again",
        "eyevsai/tracking/write_operations.py",
        'in arguments["values"].items() if name not in logged]',
        'in arguments["values"].items()]',
    ),
    Mutant(
        "reports escape names",
        "eyevsai/reports/page.py",
        "autoescape=True",
        "autoescape=False",
    ),
]

"""Python API: the commands train, tune, evaluate, compare and export as functions.

Each function takes the settings of its command as keyword arguments, validates them in the same
way, raises the same errors, and returns the result of the job. Jobs log to the logger `eyevsai`,
and to standard error unless the caller handles that logger; nothing is printed. Each function
restores the state of the calling process: signal handlers, torch's number of threads and MLflow's
environment variables.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from eyevsai import config
from eyevsai.core.errors import TerminationRequested, UserError, explain_path_error
from eyevsai.core.logging import logging_to_stderr, quiet_mlflow
from eyevsai.core.model_ref import parse_model, to_text
from eyevsai.core.settings import Setting, list_settings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.workflows.config_source import with_config
from eyevsai.workflows.startup import starting
from eyevsai.workflows.tune.settings import compose_tune, tune_settings, tune_settings_of

if TYPE_CHECKING:
    from eyevsai.api_types import (
        EvaluateKeywords,
        ExportKeywords,
        PackageKeywords,
        TrainKeywords,
        TuneKeywords,
    )
    from eyevsai.workflows.evaluate.compare import Comparison
    from eyevsai.workflows.evaluate.evaluate import Evaluated
    from eyevsai.workflows.export.bundle import Bundled
    from eyevsai.workflows.export.export import Exported
    from eyevsai.workflows.train.train import Trained
    from eyevsai.workflows.tune.tune import Tuned


def train(**settings: Unpack[TrainKeywords]) -> Trained:
    """Train a model, log the run and register a version, as `eyevsai train` does.

        trained = eyevsai.train(model="deep_v1", dataset="digits", epochs=3, lr=1e-3)
        trained.model_uri           # 'models:/digits-deep_v1-standard/1'
        trained.scores["accuracy"]  # 0.93

    `eyevsai train --model deep_v1 --help` describes the settings of a model; keywords have the
    names of its options.

    Raises:
        UserError: a setting, the data or the store is invalid or unusable.
        JobError: training failed, for example because the loss became NaN.
        KeyboardInterrupt: training was interrupted. The run was saved as KILLED with a checkpoint;
            resume it with train(resume=RUN_ID).
    """
    with _job_in_host_process():
        values = with_config(settings, "train", config.train_settings)
        composed = config.compose_train(
            config.coerce_settings(values, _declared_train_settings(values))
        )
        from eyevsai.workflows.distributed.rank import rank_from_env

        if rank_from_env() is not None:
            raise UserError(
                "eyevsai.train cannot run in a process that torchrun started. Call it with "
                "devices=N in one process, or start the command: torchrun ... -m eyevsai train"
            )
        parts = (composed.data, composed.run, composed.model.settings, composed.call)
        with starting(*parts, is_silent=True):
            from eyevsai.workflows.train.train import train as job

        with _restore_torch_threads():
            return job(composed)


def tune(**settings: Unpack[TuneKeywords]) -> Tuned:
    """Search for the best settings of a model, as `eyevsai tune` does.

        tuned = eyevsai.tune(model="deep_v1", dataset="digits", epochs=3, n_trials=5)
        tuned.settings, tuned.accuracy
        # uses tuned.settings as defaults, unless tuned="never"
        eyevsai.train(model="deep_v1", dataset="digits", epochs=30)

    Settings passed here are fixed in all trials. An existing study of the same name is resumed.

    Raises:
        UserError: a setting, the data or the store is invalid or unusable.
        JobError: no trial has a result.
        KeyboardInterrupt: the study was interrupted, and the run of the current trial has ended.
            The same call resumes the study.
    """
    with _job_in_host_process():
        values = with_config(settings, "tune", tune_settings_of)
        composed = compose_tune(
            config.coerce_settings(values, tune_settings(_declared_train_settings(values)))
        )
        trials = composed.trials
        parts = (trials.data, trials.run, trials.model.settings, composed.tuning, composed.call)
        with starting(*parts, is_silent=True):
            from eyevsai.workflows.tune.tune import tune as job

        with _restore_torch_threads():
            return job(composed)


def evaluate(model: str | None = None, **settings: Unpack[EvaluateKeywords]) -> Evaluated:
    """Evaluate a trained model on images not used for training, as `eyevsai evaluate` does.

        evaluated = eyevsai.evaluate("digits-deep_v1-standard/1")  # or trained.run_id
        evaluated.metrics["accuracy"], evaluated.metrics["accuracy_low"]

    Args:
        model: version such as `NAME/3` or `NAME@production`, or run id; same as `model_uri`.
        settings: options of the command.

    Raises:
        UserError: a setting, the model, the data or the store is invalid or unusable.
    """
    with _job_in_host_process():
        composed = config.compose(
            EvaluateSettings,
            _coerce_known(EvaluateSettings, _merge_model(model, settings), "evaluate"),
        )
        with starting(composed, is_silent=True):
            from eyevsai.workflows.evaluate.evaluate import evaluate as job

        with _restore_torch_threads():
            return job(composed)


def compare(
    *models: str | os.PathLike[str], page: str | os.PathLike[str] = "comparison.html"
) -> Comparison:
    """Compare evaluated models with the first of them, as `eyevsai compare` does.

        compared = eyevsai.compare(first.run_id, "digits-shallow-rf_hog_lbp/1")
        compared.settings, compared.pairs[0].difference.p_value

    Args:
        models: versions such as `NAME/3`, or run ids.
        page: path of the HTML page to write.

    Raises:
        UserError: a model does not exist, was not evaluated, or was evaluated on other images.
    """
    with _job_in_host_process():
        references = tuple(map(to_text, models))
        with starting(page=page, references=references, is_silent=True):
            from eyevsai.workflows.evaluate.compare import compare as job

        with _restore_torch_threads():
            return job(references, Path(page))


@overload
def export(model: str | None = None, **settings: Unpack[ExportKeywords]) -> list[Exported]: ...
@overload
def export(**settings: Unpack[PackageKeywords]) -> Bundled: ...
def export(model: str | None = None, **settings: Any) -> list[Exported] | Bundled:
    """Export a trained model to other runtimes' formats, as `eyevsai export` does.

        for each in eyevsai.export("digits-deep_v1-standard/1", format="onnx", output="exports"):
            print(each.format, each.uri, each.size_bytes, each.parity.metrics)
        eyevsai.export(package="game", format="onnx").folder

    Args:
        model: version such as `NAME/3` or `NAME@production`, or run id; same as `model_uri`.
        settings: options of the command.

    Returns:
        One result per format; with `package`, the bundle of the best models of every dataset.

    Raises:
        UserError: a setting, the model, the data or the store is invalid or unusable.
        JobError: an export failed the parity check with the model. Exports that passed are kept.
    """
    with _job_in_host_process():
        values = _coerce_known(ExportSettings, _merge_model(model, settings), "export")
        composed = config.compose(ExportSettings, values)
        if composed.package is not None:
            with starting(composed, is_silent=True):
                from eyevsai.workflows.export.bundle import bundle

            with _restore_torch_threads():
                return bundle(composed)
        with starting(composed, is_silent=True):
            from eyevsai.workflows.export.export import export as job

        with _restore_torch_threads():
            return job(composed)


def _declared_train_settings(keywords: Any) -> tuple[Setting, ...]:
    """Return the train settings of the model and variation in `keywords`.

    If these do not exist, return the shared settings only: `compose_train` raises the error.
    """
    try:
        variation = keywords.get("variation")
        return config.train_settings(
            str(keywords.get("model", config.ModelChoice().model)), variation and str(variation)
        )
    except UserError:
        return config.shared_settings()


def _coerce_known(declared: type[Any], keywords: Any, command: str) -> dict[str, Any]:
    """Return the keyword values as plain values; raise UserError for an unknown keyword."""
    config.check_setting_names(keywords, list_settings(declared), command)
    return config.coerce_settings(keywords, list_settings(declared))


def _merge_model(model: str | None, keywords: Any) -> dict[str, Any]:
    """Return the keywords with the positional `model` as `model_uri`.

    Raises:
        UserError: the keyword `model_uri` names another model.
    """
    other = keywords.get("model_uri")
    if model is None:
        return dict(keywords)
    model = to_text(model)
    if other is not None and not parse_model(model).has_same_target(parse_model(str(other))):
        raise UserError(f"{model!r} and model_uri={other!r} contradict each other. Omit one.")
    return {**keywords, "model_uri": model}


@contextmanager
def _job_in_host_process() -> Iterator[None]:
    """Run the block as a job of the calling process, and restore the state of that process.

    SIGTERM ends the job first, and is then raised again for the handler of the process. OSErrors
    about unusable paths become UserErrors.
    """
    from eyevsai.workflows.shutdown import in_host_process

    variables = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    with logging_to_stderr(), in_host_process():
        try:
            quiet_mlflow()
            yield
        except OSError as error:
            if path_error := explain_path_error(error):
                raise path_error from error
            raise
        except TerminationRequested:
            signal.raise_signal(signal.SIGTERM)
            raise
        finally:
            for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
                if name not in variables:
                    del os.environ[name]
            os.environ.update(variables)


@contextmanager
def _restore_torch_threads() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

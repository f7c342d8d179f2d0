"""The commands as functions, for programs and notebooks: `from eyevsai import train, tune,
evaluate, compare, export`.

Each takes its command's settings by keyword, checks them alike, raises its errors, and returns what
its job does. What jobs tell of themselves goes to the logger `eyevsai`, and to standard error
unless the caller shows that logger; nothing is printed. The process is the caller's: signal
handlers, torch's threads and MLflow's variables are as before after it.
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
from eyevsai.core.settings import Setting, list_settings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.workflows.tune.settings import tune_settings

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
    """Train a model, log the run and register a version, as `eyevsai train` does with flags of
    the same names.

        trained = eyevsai.train(model="deep_v1", dataset="digits", epochs=3, lr=1e-3)
        trained.model_uri           # 'models:/digits-deep_v1-standard/1'
        trained.scores["accuracy"]  # 0.93

    `eyevsai train --model deep_v1 --help` says what the settings of a model mean.

    Raises:
        UserError: a setting, data or a store that a person must mend; JobError: a loss that became
            NaN.
        KeyboardInterrupt: after the run ended as KILLED with a checkpoint; go on with
            train(resume=RUN_ID).
    """
    with _in_the_callers_process():
        composed = config.compose_train(
            config.coerce_settings(settings, _settings_of_train(settings))
        )
        from eyevsai.workflows.distributed.rank import rank_from_env

        if rank_from_env() is not None:
            raise UserError(
                "torchrun started this process as one of several. Call train with devices=N in "
                "one process instead, or let torchrun start the command: "
                "torchrun ... -m eyevsai train"
            )
        from eyevsai.workflows.train.train import train as job

        return job(composed)


def tune(**settings: Unpack[TuneKeywords]) -> Tuned:
    """Search for the best settings of a model, as `eyevsai tune` does.

        tuned = eyevsai.tune(model="deep_v1", dataset="digits", epochs=3, n_trials=5)
        tuned.settings, tuned.accuracy
        # train takes tuned.settings, unless tuned="never"
        eyevsai.train(model="deep_v1", dataset="digits", epochs=30)

    No trial changes a setting that is given here. A study of the same name is continued.

    Raises:
        UserError: a setting, data or a store that a person must mend; JobError: no trial had a
            result.
        KeyboardInterrupt: after the trial's run ended; the same call goes on with the study.
    """
    with _in_the_callers_process():
        from eyevsai.workflows.tune.study_config import compose_tune

        composed = compose_tune(
            config.coerce_settings(settings, tune_settings(_settings_of_train(settings)))
        )
        from eyevsai.workflows.tune.tune import tune as job

        return job(composed)


def evaluate(**settings: Unpack[EvaluateKeywords]) -> Evaluated:
    """Evaluate a trained model on images that it has not seen, as `eyevsai evaluate` does.

        # or run=trained.run_id
        evaluated = eyevsai.evaluate(model_uri="models:/digits-deep_v1-standard/1")
        evaluated.metrics["accuracy"], evaluated.metrics["accuracy_low"]

    Raises:
        UserError: a setting, a model, data or a store that a person must mend.
    """
    with _in_the_callers_process():
        composed = config.compose(EvaluateSettings, _take(EvaluateSettings, settings, "evaluate"))
        from eyevsai.workflows.evaluate.evaluate import evaluate as job

        return job(composed)


def compare(*models: str, page: str | os.PathLike[str] = "comparison.html") -> Comparison:
    """Compare evaluated models with the first of them, as `eyevsai compare` does.

    `models` are run ids or model URIs; the page is written to `page`.

        compared = eyevsai.compare(first.run_id, "models:/digits-shallow-rf_hog_lbp/1")
        compared.settings, compared.pairs[0].difference.p_value

    Raises:
        UserError: a model that cannot be found, was not evaluated, or was evaluated on other
            images.
    """
    with _in_the_callers_process():
        from eyevsai.workflows.evaluate.compare import compare as job

        return job(models, Path(page))


@overload
def export(**settings: Unpack[ExportKeywords]) -> list[Exported]: ...
@overload
def export(**settings: Unpack[PackageKeywords]) -> Bundled: ...
def export(**settings: Any) -> list[Exported] | Bundled:
    """Export a trained model to other runtimes' formats, as `eyevsai export` does.

    With `package`, export the best models of every dataset together.

        for each in eyevsai.export(run=trained.run_id, format="onnx,openvino", output="exports"):
            print(each.format, each.uri, each.size_bytes, each.parity.metrics)
        eyevsai.export(package="game", format="onnx").folder

    Raises:
        UserError: a setting, a model, data or a store that a person must mend.
        JobError: an export predicts otherwise than the model; those that agree are kept.
    """
    with _in_the_callers_process():
        composed = config.compose(ExportSettings, _take(ExportSettings, settings, "export"))
        if composed.package is not None:
            from eyevsai.workflows.export.bundle import bundle

            return bundle(composed)
        from eyevsai.workflows.export.export import export as job

        return job(composed)


def _settings_of_train(given: Any) -> tuple[Setting, ...]:
    """The settings of a call's model and variation; `compose` reports a wrong one."""
    try:
        variation = given.get("variation")
        return config.train_settings(
            str(given.get("model", config.ModelChoice().model)), variation and str(variation)
        )
    except UserError:
        return config.shared_settings()


def _take(declared: type[Any], given: Any, command: str) -> dict[str, Any]:
    config.check_known(given, list_settings(declared), command)
    return config.coerce_settings(given, list_settings(declared))


@contextmanager
def _in_the_callers_process() -> Iterator[None]:
    """Run a job and leave the process as it was.

    SIGTERM ends the job first, and is then raised again for the process's own handler.
    """
    from eyevsai.workflows.shutdown import in_host_process

    variables = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    with logging_to_stderr(), in_host_process(), _keeping_threads():
        try:
            quiet_mlflow()
            yield
        except OSError as error:
            if refused := explain_path_error(error):
                raise refused from error
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
def _keeping_threads() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

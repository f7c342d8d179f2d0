"""The `eyevsai` command. Jobs are imported when they are called, so that help is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import eyevsai
from eyevsai import (
    config,
    data_commands,
    machine_commands,
    matrix_commands,
    model_commands,
    registry_commands,
)
from eyevsai.completion import completed_words
from eyevsai.core.errors import JobError, TerminationRequested, UserError, explain_path_error
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import format_flags, list_settings
from eyevsai.data.settings import DataSettings
from eyevsai.flags import (
    Json,
    finish,
    pick_settings,
    pop_settings,
    refuse_flags_of_train,
    settings_of_command,
    tune_settings,
    where_to_view,
    with_flags,
)
from eyevsai.models.factory import get_variation
from eyevsai.reports.settings import DescribeSettings
from eyevsai.words import Asked, hyphens

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line and exits with its code: 0 done, 1 failed, 2 a mistake in what was
    asked.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked = Asked()
    try:
        build_app(arguments or completed_words())(arguments, prog_name="eyevsai", obj=asked)
    except UserError as error:
        _fail(error, error.exit_code, asked.debug)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except TerminationRequested as error:
        sys.exit(error.exit_code)
    except MemoryError as error:
        _fail(
            JobError(f"Out of memory {error}. Try a smaller --batch-size or --image-size."),
            1,
            asked.debug,
        )
    except Exception as error:
        if asked.debug:
            raise
        if refused := explain_path_error(error):
            _fail(refused, refused.exit_code, asked.debug)
        _fail(
            error,
            1,
            asked.debug,
            hint=" This is a defect of eyevsai: run again with --debug and report it.",
        )


def _fail(error: Exception, code: int, debug: bool, hint: str = "") -> None:
    if debug:
        raise error
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    print(f"Error: {name}{error}{hint}", file=sys.stderr)
    sys.exit(code)


def build_app(arguments: list[str]) -> typer.Typer:
    """The application for one command line; a command's flags depend on the model that it names."""
    app = typer.Typer(
        add_completion=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        help="Image classifiers that are tuned, trained, exported and looked after with MLflow.",
        context_settings={"token_normalize_func": hyphens},
        epilog="Every command takes --quiet, --verbose and --debug.",
    )
    app.callback(invoke_without_command=True)(_version)
    settings = settings_of_command(arguments)
    lenient = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(context_settings=lenient, rich_help_panel="Jobs")(with_flags(train, settings))
    app.command(context_settings=lenient, rich_help_panel="Jobs")(
        with_flags(tune, tune_settings(settings))
    )
    matrix_commands.add_to(app, arguments)
    model_commands.add_to(app)
    registry_commands.add_to(app)
    app.command(hidden=True)(work)
    app.command(name="list")(with_flags(list_all, pick_settings(DataSettings, "data_root")))
    app.command(context_settings=lenient)(
        with_flags(describe, (*list_settings(DescribeSettings), *settings))
    )
    machine_commands.add_to(app)
    app.add_typer(data_commands.build_app(), name="data")
    finish(app)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"eyevsai {eyevsai.__version__}")
        raise typer.Exit


def train(context: typer.Context, **given: Any) -> None:
    """Train a model, log the run and register a version.

    With --model the flags of that family are shown too. `mlflow run . -e train -P model=deep_v1`
    does the same in a run that MLflow makes; -P takes every flag: -P lr=0.001.
    """
    _refuse_extras(context, given)
    composed = config.compose_train(given)
    from eyevsai.workflows.distributed.rank import rank_from_env

    place = rank_from_env()
    if place is not None and place.rank > 0:
        from eyevsai.workflows.distributed.worker import run_worker

        run_worker(composed, place)
        return
    configure_logging()
    from eyevsai.workflows.train.train import train as job

    done = job(composed, config.take_run_id(), place)
    scores = done.scores
    print(
        f"{done.model_uri or 'no version yet'}\n"
        f"valid accuracy {scores['accuracy']:.4f}, loss {scores['loss']:.4f}, in "
        f"{done.seconds:.0f} s\n"
        f"run {done.run_id}; {where_to_view()}"
    )


def tune(context: typer.Context, **given: Any) -> None:
    """Look for the best settings of a model. Takes the flags of train, which no trial changes then.

    A study of the same name is gone on with. `train` takes what it found.
    """
    refuse_flags_of_train(context.args)
    _refuse_extras(context, given)
    from eyevsai.workflows.tune.study_config import compose_tune

    composed = compose_tune(given)
    configure_logging()
    from eyevsai.workflows.tune.tune import tune as job

    done = job(composed, config.take_run_id())
    states = ", ".join(f"{count} {state}" for state, count in done.states.items())
    print(
        f"study {done.study}: {states}\n"
        f"best valid accuracy {done.accuracy:.4f} with {format_flags(done.settings)}\n"
        f"run {done.run_id}, in {done.seconds:.0f} s; {where_to_view()}"
    )


def work(folder: Path) -> None:
    """Make the call that an engine left in a folder, in a process of its own."""
    configure_logging()
    from eyevsai.executors.local import run_task as job

    raise typer.Exit(job(folder))


def list_all(as_json: Json = False, **given: Any) -> None:
    """List families, variations and datasets."""
    from eyevsai.workflows.describe import list_inventory

    inventory = list_inventory(_data_root(given))
    if as_json:
        print(json.dumps(inventory, indent=2, ensure_ascii=False))
        return
    models, datasets = inventory["models"], inventory["datasets"]
    width = 2 + max(
        map(len, (*datasets, *(name for about in models.values() for name in about["variations"])))
    )
    for family, about in models.items():
        print(f"{family}: {about['title']}")
        for variation, described in about["variations"].items():
            print(
                f"  {variation:<{width}}{described['technical']}\n  "
                f"{'':<{width}}{described['simple']}"
            )
    print("datasets:")
    for name, description in datasets.items():
        print(f"  {name:<{width}}{description}")


def describe(context: typer.Context, as_json: Json = False, **given: Any) -> None:
    """Say what a model is made of: layers, parameters, operations and papers. Takes the flags of
    train.
    """
    _refuse_extras(context, given)
    num_classes = pop_settings(DescribeSettings, given).num_classes
    # the family's own defaults, not those that suit the digits
    own = {} if "dataset" in given else {"data": "any"}
    composed = config.compose_train(own | given).model
    from eyevsai.reports.model_card import render_card
    from eyevsai.workflows.describe import describe as job

    described = job(composed, num_classes)
    print(json.dumps(described, indent=2) if as_json else render_card(described))


def _data_root(given: dict[str, Any]) -> Path:
    return Path(config.compose_data(given).data_root).expanduser()


def _refuse_extras(context: Any, given: dict[str, Any]) -> None:
    """Refuses what the parser could not use: flags of other models, flags of none, words without a
    flag.
    """
    if not context.args:
        return
    family, variation = given.get("model", config.ModelChoice().model), given.get("variation")
    variation, _ = get_variation(family, variation)  # a wrong model is the first thing to say
    known = [param.name for param in context.command.params]
    names = {extra: extra.lstrip("-").partition("=")[0].replace("-", "_") for extra in context.args}
    flag = next(
        (extra for extra in context.args if extra.startswith("--") and names[extra] not in known),
        None,
    )
    if flag is None:
        raise UserError(
            f"{context.args[0]!r} belongs to no flag. See `{context.command_path} --help`."
        )
    raise config.unknown_setting(names[flag], family, known, context.info_name)

"""The `eyevsai` command. Jobs are imported when they are called, so that help is instant."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import eyevsai
from eyevsai import config
from eyevsai.data.catalogue import PRESETS
from eyevsai.errors import Terminated, UserError
from eyevsai.models.families import variation_of
from eyevsai.settings import FALSE, TRUE, Setting

INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line and exits with its code: 0 done, 1 failed, 2 a mistake in what was asked."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        build_app(arguments)(arguments, prog_name="eyevsai")
    except UserError as error:
        _fail(error, error.exit_code, debug)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Terminated as error:
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        _fail(error, 1, debug, hint=" This is a defect of eyevsai: run again with --debug and report it.")


def _fail(error: Exception, code: int, debug: bool, hint: str = "") -> None:
    if debug:
        raise error
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    print(f"Error: {name}{error}{hint}", file=sys.stderr)
    sys.exit(code)


def build_app(arguments: list[str]) -> typer.Typer:
    """The application for one command line; a command's flags depend on the model that it names."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
        help="Image classifiers that are tuned, trained, exported and looked after with MLflow.",
        epilog="--debug shows the traceback of an error.",
    )  # fmt: skip
    app.callback(invoke_without_command=True)(_version)
    settings = _settings_of_command(arguments)
    _spell_out_booleans(arguments, settings)
    lenient = {"ignore_unknown_options": True, "allow_extra_args": True, "token_normalize_func": _hyphens}
    app.command(context_settings=lenient, rich_help_panel="Jobs")(_with_flags(train, settings))
    app.command(name="list")(list_all)
    app.command()(doctor)
    return app


def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"eyevsai {eyevsai.__version__}")
        raise typer.Exit


def train(context: typer.Context, /, **given: Any) -> None:
    """Train a model, log the run and register a version.

    With --model the flags of that family are shown too. `mlflow run . -e train -P model=deep_v1`
    does the same in a run that MLflow makes; -P takes every flag: -P lr=0.001.
    """
    given = {name: value for name, value in given.items() if value is not None}
    _refuse_extras(context.args, given)
    composed = config.compose_train(given)
    _start_logging()
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    from eyevsai.jobs.train import train as job

    done = job(composed, run_id)
    scores = done.scores
    print(
        f"{done.model_uri}\n"
        f"valid accuracy {scores['accuracy']:.4f}, loss {scores['loss']:.4f}, in {done.seconds:.0f} s\n"
        f"run {done.run_id}; see it with: mlflow ui"
    )


def list_all(
    data_root: Annotated[str, typer.Option(envvar="EYEVSAI_DATA", help="Folder of datasets.")] = "data",
    as_json: Json = False,
) -> None:
    """List families, variations and datasets."""
    from eyevsai.jobs.inventory import list_inventory

    inventory = list_inventory(Path(data_root).expanduser())
    if as_json:
        print(json.dumps(inventory, indent=2, ensure_ascii=False))
        return
    for family, about in inventory["models"].items():
        print(f"{family}: {about['title']}")
        for variation, described in about["variations"].items():
            print(f"  {variation:<12}{described['technical']}\n{'':<14}{described['simple']}")
    print("datasets:")
    for name, description in inventory["datasets"].items():
        print(f"  {name:<16}{description}")


def doctor(
    init: Annotated[bool, typer.Option("--init", help="Create the store if there is none.")] = False,
    data_root: Annotated[str, typer.Option(envvar="EYEVSAI_DATA", help="Folder of datasets.")] = "data",
    as_json: Json = False,
) -> None:
    """Check the environment and say what to mend."""
    from eyevsai.jobs.doctor import examine

    findings = examine(Path(data_root).expanduser(), create_store=init)
    if as_json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'MEND'}  {finding.subject:<12}{finding.text}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _settings_of_command(arguments: Sequence[str]) -> tuple[Setting, ...]:
    """The settings that a command line's --model and --variation bring with them.

    A model that does not exist is reported when the command runs, so that help still works.
    """
    model, variation = _peek(arguments, "model"), _peek(arguments, "variation")
    helping = "--help" in arguments
    try:
        return config.train_settings(model or (None if helping else config.ModelChoice().model), variation)
    except UserError:
        return config.shared_settings()


def _peek(arguments: Sequence[str], name: str) -> str | None:
    """The value of `--name` in a command line that is not parsed yet."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
        if argument == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
    return None


def _with_flags(command: Callable[..., None], settings: Sequence[Setting]) -> Callable[..., None]:
    """`command` with a signature from which Typer makes one flag for each setting."""
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for setting in settings:
        option = typer.Option(
            setting.flag, parser=setting.parse, metavar=_metavar(setting), help=_help(setting),
            show_default=False, rich_help_panel=setting.panel,
        )  # fmt: skip
        annotation = Annotated[Any, option]
        parameters.append(
            inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )

    def flagged(*, context: typer.Context, **given: Any) -> None:
        command(context, **given)

    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    flagged.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flagged


def _metavar(setting: Setting) -> str:
    return {int: "INT", float: "NUMBER", str: "TEXT", bool: "BOOL"}[setting.type]


def _help(setting: Setting) -> str:
    notes = [str(setting.allowed)] if setting.allowed else []
    notes += [f"env {setting.env}"] if setting.env else []
    notes += [] if setting.default is None else [f"default {_word(setting.default)}"]
    notes += [f"{name}: {_word(preset[setting.name])}" for name, preset in PRESETS.items() if setting.name in preset]
    return f"{setting.doc} ({'; '.join(notes)})" if notes else setting.doc


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hyphens(token: str) -> str:
    return token.replace("_", "-")


def _spell_out_booleans(arguments: list[str], settings: Sequence[Setting]) -> None:
    """`--flip` becomes `--flip true` and `--no-flip` `--flip false`, in place; `--flip false` stays."""
    flags = {setting.flag for setting in settings if setting.type is bool}
    for place in range(len(arguments) - 1, -1, -1):
        flag = _hyphens(arguments[place])
        if flag in flags and (arguments[place + 1 : place + 2] or [""])[0].lower() not in TRUE + FALSE:
            arguments.insert(place + 1, "true")
        elif flag.startswith("--no-") and "--" + flag[5:] in flags:
            arguments[place : place + 1] = ["--" + flag[5:], "false"]


def _refuse_extras(extras: Sequence[str], given: dict[str, Any]) -> None:
    if not extras:
        return
    family, variation = given.get("model", config.ModelChoice().model), given.get("variation")
    variation, _ = variation_of(family, variation)  # a wrong model is the first thing to say
    flag = next((extra for extra in extras if extra.startswith("-")), None)
    if flag is None:
        raise UserError(f"{extras[0]!r} belongs to no flag. See `eyevsai train --help`.")
    raise config.unknown_setting(flag.lstrip("-").partition("=")[0].replace("-", "_"), family, variation)


def _start_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("eyevsai")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

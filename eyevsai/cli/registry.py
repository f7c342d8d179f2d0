"""Commands for the model registry: promote, rollback, cleanup, and the group `eyevsai registry`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.completion import COMPLETERS
from eyevsai.cli.options import Json, argument, merge_model, pick_settings, with_options
from eyevsai.cli.output import format_version_hint
from eyevsai.core.errors import UserError
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging, is_verbose
from eyevsai.core.model_ref import VERSION_FORMS
from eyevsai.core.settings import Setting, format_flags, list_settings
from eyevsai.core.terminal import wrap_message
from eyevsai.registry.settings import CleanupSettings, PromoteSettings
from eyevsai.workflows.startup import starting

Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Registered model, as in `eyevsai registry status`, or a version of it.",
    ),
]
Promoted = Annotated[
    str | None,
    argument(
        *pick_settings(PromoteSettings, "name"),
        "MODEL",
        f"{VERSION_FORMS}, with or without models:/, or the id of its run; or NAME with --version.",
    ),
]
Version = Annotated[
    int | None,
    argument(
        *pick_settings(PromoteSettings, "version"), "VERSION", "Number, if MODEL is only a name."
    ),
]
Reason = Annotated[str | None, typer.Option(help="Reason, recorded in the log.")]
LEGACY_FILE = Setting("path", str, False, None, "training_registry.json to import.", "Registry")
STATE = pick_settings(PromoteSettings, "state_dir")
# settings of `promote` that `best` has too
BEST_SETTINGS = ("policy", "force", "class_change", "reason", "state_dir")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command(rich_help_panel="Registry")(with_options(promote, list_settings(PromoteSettings)))
    app.command(rich_help_panel="Registry")(with_options(rollback, STATE))
    app.command(rich_help_panel="Registry")(with_options(cleanup, list_settings(CleanupSettings)))
    app.add_typer(build_app(), name="registry", rich_help_panel="Registry")


def build_app() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="Status, history and maintenance of registered models.")
    app.command()(status)
    app.command()(log)
    app.command()(with_options(best, pick_settings(PromoteSettings, *BEST_SETTINGS)))
    app.command()(with_options(reconcile, STATE))
    app.command()(with_options(pin, STATE))
    app.command()(with_options(unpin, STATE))
    app.command(name="import")(import_registry)
    return app


def promote(registered: Promoted = None, as_json: Json = False, **values: Any) -> None:
    """Promote a version to Production or Staging if it passes the promotion checks."""
    settings = config.compose(PromoteSettings, merge_model(registered, values, "name"))
    configure_logging()
    with starting(settings, is_silent=as_json):
        from eyevsai.workflows.registry.promote import promote as job

    _print_promoted(job(settings, config.take_run_id()), as_json)


def rollback(name: Name, reason: Reason = None, as_json: Json = False, **values: Any) -> None:
    """Restore the previous version in Production, even if the current one does not load."""
    configure_logging()
    state_dir = config.find_state_dir(values)
    with starting(state_dir=state_dir, references=[name], is_silent=as_json):
        from eyevsai.workflows.registry.promote import rollback as job

    _print_promoted(job(name, reason, state_dir), as_json)


def _print_promoted(result: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(result), indent=2))
        return
    for check in result.checks:
        prefix = f"{'ok    ' if check.ok else 'forced'}  {check.name:<10}"
        print(wrap_message(check.text, sys.stdout, prefix))
    recorded = f"recorded in run {result.run_id}"
    if result.stage == "archived":
        print(f"archived: models:/{result.name}/{result.before}; {recorded}")
    else:
        before = "none" if result.before is None else f"version {result.before}"
        print(
            f"{result.stage}: models:/{result.name}/{result.after}, previously {before}; {recorded}"
        )
    shown = result.before if result.after is None else result.after
    print(format_version_hint(result.name, shown))


def cleanup(as_json: Json = False, **values: Any) -> None:
    """Delete old versions, failed runs, old studies, the cache and orphans, with their files.

    Print the plan and ask for confirmation, unless --yes is set. Versions that are in Production or
    Staging, have an alias, are pinned, in use or needed by another version are kept; --verbose
    prints the reason for each.
    """
    settings = config.compose(CleanupSettings, values)
    configure_logging()
    with starting(settings, modules=("mlflow",), is_silent=as_json):
        from eyevsai.workflows.registry.cleanup import cleanup as job

    result = job(settings, lambda plan: _confirm(settings, plan, as_json), config.take_run_id())
    if as_json:
        print(json.dumps(to_json(result), indent=2, ensure_ascii=False))
    elif result.run_id is not None:
        print(
            f"deleted {len(result.deleted)} of {len(result.plan.items)} items, freed "
            f"{result.freed_bytes:,} bytes; recorded in run {result.run_id}"
        )


def _confirm(settings: CleanupSettings, plan: Any, as_json: bool) -> bool:
    """Print the plan unless `as_json`, and return True if its items may be deleted.

    Prompts for confirmation, unless --yes or --dry-run is set or the plan is empty.

    Raises:
        UserError: a prompt is needed, but the output is JSON or standard input is not a terminal.
    """
    from eyevsai.reports.registry_table import print_plan

    if not as_json:
        print_plan(to_json(plan), verbose=is_verbose())
    if settings.yes or settings.dry_run or not plan.items:
        return True
    if as_json or not sys.stdin.isatty():
        values = {
            setting.name: getattr(settings, setting.name)
            for setting in list_settings(CleanupSettings)
        }
        changed = {
            setting.name: values[setting.name]
            for setting in list_settings(CleanupSettings)
            if values[setting.name] != setting.default
        }
        raise UserError(
            "Nothing was deleted, because the plan is not confirmed. Confirm it with: eyevsai "
            f"cleanup {format_flags(changed)} --yes"
        )
    return typer.confirm(f"Delete {len(plan.items)} items?")


def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Registered model, or a version of it; all by default.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List versions with stage, aliases, metrics and promotion.

    Exit code 1 if stages and aliases are inconsistent.
    """
    configure_logging()
    references = None if name is None else [name]
    with starting(references=references, modules=("mlflow",), is_silent=as_json):
        from eyevsai.workflows.registry.status import read_status

    result = read_status(name)
    if as_json:
        print(json.dumps(to_json(result), indent=2, ensure_ascii=False))
    else:
        from eyevsai.reports.registry_table import print_status

        print_status(result.versions)
        for text in result.disagreements:
            print(wrap_message(text, sys.stdout, "FAIL  "))
    if result.disagreements:
        raise typer.Exit(1)


def log(
    name: Name,
    at: Annotated[
        str | None,
        typer.Option(help="Day or time: print only what was in Production then."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List promotions, rollbacks, deletions and other changes, with user, time and reason.

    With --at, list the versions that were in Production then.
    """
    configure_logging()
    with starting(at=at, references=[name], modules=("mlflow",), is_silent=as_json):
        from eyevsai.workflows.registry.status import read_entries, version_at

    name, entries = read_entries(name)
    if at is not None:
        history = [
            {"since": since.isoformat(timespec="seconds"), "version": version}
            for since, version in version_at(entries, at)
        ]
        print(json.dumps(history, indent=2) if as_json else _format_history(name, at, history))
        return
    if as_json:
        print(json.dumps(to_json(entries), indent=2, ensure_ascii=False))
        return
    from eyevsai.reports.registry_table import print_log

    print_log(to_json(entries))


def _format_history(name: str, at: str, history: list[dict[str, Any]]) -> str:
    lines = [
        f"since {each['since']}  {'none' if each['version'] is None else 'models:/' + name}"
        f"{'' if each['version'] is None else '/' + str(each['version'])}"
        for each in history
    ]
    return (
        "\n".join(lines) or f"No version of {name} was in Production at {at}, according to its log."
    )


def best(
    dataset: Annotated[
        str,
        typer.Option(
            help="Dataset that the models were trained on.", autocompletion=COMPLETERS["dataset"]
        ),
    ],
    models: Annotated[
        str | None,
        typer.Option(
            help="Families or family/variation, comma-separated; all by default.",
            autocompletion=COMPLETERS["models"],
        ),
    ] = None,
    promote_first: Annotated[
        bool,
        typer.Option(
            "--promote",
            help="Register the best model under the name of the dataset, and promote it.",
        ),
    ] = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Rank the models of a dataset across families.

    With --promote, promote the best one to models:/DATASET@production.
    """
    configure_logging()
    state_dir = config.find_state_dir(values)
    with starting(
        state_dir=state_dir, policy=values.get("policy"), modules=("mlflow",), is_silent=as_json
    ):
        from eyevsai.workflows.registry.ranking import find_best, promote_best

    if promote_first:
        settings = {"policy": None, "force": False, "class_change": False, "reason": None} | values
        settings["state_dir"] = str(state_dir)
        _print_promoted(promote_best(dataset, models=models, **settings), as_json)
        return
    ranking = find_best(dataset, models)
    if as_json:
        print(json.dumps(to_json(ranking), indent=2))
        return
    for position, each in enumerate(ranking, 1):
        print(f"{position:>3}  {each.uri:<40}  {each.metric} {each.accuracy:.4f}")
    print(
        f"Promote the first one to models:/{dataset}@production with: eyevsai registry best "
        f"--dataset {dataset} --promote"
    )


def reconcile(name: Name, **values: Any) -> None:
    """Apply manual changes of stages and aliases in MLflow's UI, and print them."""
    configure_logging()
    state_dir = config.find_state_dir(values)
    with starting(state_dir=state_dir, references=[name]):
        from eyevsai.workflows.registry.promote import reconcile as job

    name, inconsistencies = job(name, state_dir)
    print("\n".join(inconsistencies) or f"{name} is consistent.")


def pin(name: Name, version: Version = None, reason: Reason = None, **values: Any) -> None:
    """Exclude a version from all cleanups."""
    uri, _ = _pin(name, version, reason, values, pinned=True)
    print(f"{uri} is pinned: cleanups do not delete it")


def unpin(name: Name, version: Version = None, reason: Reason = None, **values: Any) -> None:
    """Allow cleanups to delete a version again."""
    uri, changed = _pin(name, version, reason, values, pinned=False)
    print(f"{uri} {'is no longer' if changed else 'was not'} pinned")


def _pin(
    name: str, version: int | None, reason: str | None, values: dict[str, Any], *, pinned: bool
) -> tuple[str, bool]:
    configure_logging()
    state_dir = config.find_state_dir(values)
    with starting(state_dir=state_dir, references=[name]):
        from eyevsai.workflows.registry.promote import pin as job

    return job(name, version, state_dir, pinned=pinned, reason=reason)


def import_registry(
    path: Annotated[str, argument(LEGACY_FILE, "FILE")], as_json: Json = False
) -> None:
    """Import the legacy system's registry as runs and versions.

    Records that were imported before are skipped. Exit code 1 if records are rejected.
    """
    configure_logging()
    with starting(legacy_file=Path(path), modules=("mlflow",), is_silent=as_json):
        from eyevsai.workflows.registry.import_legacy import import_legacy_registry as job

    result = job(Path(path))
    if as_json:
        print(json.dumps(to_json(result), indent=2, ensure_ascii=False))
    else:
        for each in result.written:
            print(f"{each.model_id}: {each.model_uri or 'failed training'}, run {each.run_id}")
        for model_type in result.unknown_types:
            print(f"{model_type} is not a family of eyevsai: imported unchanged")
        for record in result.left_out:
            print(f"rejected: {record.record} {record.reason}")
        if not (result.written or result.existing or result.left_out):
            print(f"{path} contains no records")
        print(
            f"{len(result.written)} imported, {len(result.existing)} already imported, "
            f"{len(result.left_out)} rejected"
        )
    if result.left_out:
        raise typer.Exit(1)

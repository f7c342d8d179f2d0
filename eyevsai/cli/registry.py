"""The commands about the registry: promote, rollback, and the group `eyevsai registry`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.completion import COMPLETERS
from eyevsai.cli.options import Json, argument, merge_named, pick_settings, with_options
from eyevsai.core.errors import UserError
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging, is_verbose
from eyevsai.core.settings import Setting, format_flags, list_settings
from eyevsai.registry.settings import CleanupSettings, PromoteSettings

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Registered model, as `eyevsai registry status` lists it."),
]
Promoted = Annotated[
    str | None, argument(*pick_settings(PromoteSettings, "name"), "NAME", "The same as --name.")
]
Version = Annotated[int, argument(*pick_settings(PromoteSettings, "version"), "VERSION")]
Reason = Annotated[str | None, typer.Option(help="Why, for those who read the log.")]
ORIGINAL = Setting("path", str, False, None, "The original's training_registry.json.", "Registry")
STATE = pick_settings(PromoteSettings, "state_dir")
# settings of promote that `best` takes
OF_BEST = ("policy", "force", "class_change", "reason", "state_dir")


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the application."""
    app.command(rich_help_panel="Registry")(with_options(promote, list_settings(PromoteSettings)))
    app.command(rich_help_panel="Registry")(with_options(rollback, STATE))
    app.command(rich_help_panel="Registry")(with_options(cleanup, list_settings(CleanupSettings)))
    app.add_typer(build_app(), name="registry", rich_help_panel="Registry")


def build_app() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(help="What is in Production, what was, and why.")
    app.command()(status)
    app.command()(log)
    app.command()(with_options(best, pick_settings(PromoteSettings, *OF_BEST)))
    app.command()(with_options(reconcile, STATE))
    app.command()(with_options(pin, STATE))
    app.command()(with_options(unpin, STATE))
    app.command(name="import")(import_registry)
    return app


def promote(registered: Promoted = None, as_json: Json = False, **given: Any) -> None:
    """Give Production or Staging to a version, once it has passed what the policy asks."""
    settings = config.compose(PromoteSettings, merge_named(registered, given, "name"))
    configure_logging()
    from eyevsai.workflows.registry.promote import promote as job

    _print_promoted(job(settings, config.take_run_id()), as_json)


def rollback(name: Name, reason: Reason = None, as_json: Json = False, **given: Any) -> None:
    """Put back the version that was in Production before, even when the one that is there cannot
    load.
    """
    configure_logging()
    from eyevsai.workflows.registry.promote import rollback as job

    _print_promoted(job(name, reason, config.find_state_dir(given)), as_json)


def _print_promoted(done: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(done), indent=2))
        return
    for check in done.checks:
        print(f"{'ok    ' if check.ok else 'forced'}  {check.name:<10}{check.text}")
    if done.stage == "archived":
        print(f"archived: models:/{done.name}/{done.before}; written down in run {done.run_id}")
        return
    was = "nobody" if done.before is None else f"version {done.before}"
    now = "nobody" if done.after is None else f"models:/{done.name}/{done.after}"
    print(f"{done.stage}: {now}, before it {was}; written down in run {done.run_id}")


def cleanup(as_json: Json = False, **given: Any) -> None:
    """Delete old versions, failed runs, old studies, the cache and left-overs, with all their
    files.

    Prints what goes and asks, unless --yes. What is in Production or Staging, has an alias, is
    pinned, in use or needed by another version stays; --verbose says of each why.
    """
    settings = config.compose(CleanupSettings, given)
    configure_logging()
    from eyevsai.workflows.registry.cleanup import cleanup as job

    done = job(settings, lambda plan: _agree(settings, plan, as_json), config.take_run_id())
    if as_json:
        print(json.dumps(to_json(done), indent=2, ensure_ascii=False))
    elif done.run_id is not None:
        print(
            f"deleted {len(done.deleted)} of {len(done.plan.items)} items, freed "
            f"{done.freed_bytes:,} bytes; written down in run {done.run_id}"
        )


def _agree(settings: CleanupSettings, plan: Any, as_json: bool) -> bool:
    """Prints a plan, and asks where nobody has said yes yet."""
    from eyevsai.reports.registry_table import print_plan

    if not as_json:
        print_plan(to_json(plan), verbose=is_verbose())
    if settings.yes or settings.dry_run or not plan.items:
        return True
    if as_json or not sys.stdin.isatty():
        typed = {
            setting.name: getattr(settings, setting.name)
            for setting in list_settings(CleanupSettings)
        }
        changed = {
            setting.name: typed[setting.name]
            for setting in list_settings(CleanupSettings)
            if typed[setting.name] != setting.default
        }
        raise UserError(
            "Nothing was deleted. If that is what you want: eyevsai cleanup "
            f"{format_flags(changed)} --yes"
        )
    return typer.confirm(f"Delete {len(plan.items)} items?")


def status(
    name: Annotated[
        str | None, typer.Argument(help="One registered model; all by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List versions with stages, aliases, figures and who promoted them. Exit code 1 when something
    disagrees.
    """
    configure_logging()
    from eyevsai.workflows.registry.status import read_status

    found = read_status(name)
    if as_json:
        print(json.dumps(to_json(found), indent=2, ensure_ascii=False))
    else:
        from eyevsai.reports.registry_table import print_status

        print_status(found.versions)
        for said in found.disagreements:
            print(f"FAIL  {said}")
    if found.disagreements:
        raise typer.Exit(1)


def log(
    name: Name,
    at: Annotated[
        str | None, typer.Option(help="Only what was in Production on that day, or at that time.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List who promoted, rolled back or deleted what, when and why; with --at, what was in
    Production then.
    """
    configure_logging()
    from eyevsai.workflows.registry.status import read_entries, version_at

    entries = read_entries(name)
    if at is not None:
        held = [
            {"since": since.isoformat(timespec="seconds"), "version": version}
            for since, version in version_at(entries, at)
        ]
        print(json.dumps(held, indent=2) if as_json else _held(name, at, held))
        return
    if as_json:
        print(json.dumps(to_json(entries), indent=2, ensure_ascii=False))
        return
    from eyevsai.reports.registry_table import print_log

    print_log(to_json(entries))


def _held(name: str, at: str, held: list[dict[str, Any]]) -> str:
    lines = [
        f"since {each['since']}  {'nobody' if each['version'] is None else 'models:/' + name}"
        f"{'' if each['version'] is None else '/' + str(each['version'])}"
        for each in held
    ]
    return (
        "\n".join(lines)
        or f"Nothing of {name} was in Production by {at}, as far as the log goes back."
    )


def best(
    dataset: Annotated[
        str,
        typer.Option(
            help="A dataset that models were trained on.", autocompletion=COMPLETERS["dataset"]
        ),
    ],
    make: Annotated[
        bool,
        typer.Option(
            "--promote",
            help="Register the best under the dataset's own name, and promote it there.",
        ),
    ] = False,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Rank the models of a dataset across families; with --promote, make models:/DATASET@production
    the best.
    """
    configure_logging()
    from eyevsai.workflows.registry.ranking import find_best, promote_best

    if make:
        settings = {"policy": None, "force": False, "class_change": False, "reason": None} | given
        settings["state_dir"] = str(config.find_state_dir(given))
        _print_promoted(promote_best(dataset, **settings), as_json)
        return
    ranking = find_best(dataset)
    if as_json:
        print(json.dumps(to_json(ranking), indent=2))
        return
    for place, each in enumerate(ranking, 1):
        print(f"{place:>3}  {each.uri:<40}  {each.metric} {each.accuracy:.4f}")
    print(
        f"Make the first models:/{dataset}@production with: eyevsai registry best --dataset "
        f"{dataset} --promote"
    )


def reconcile(name: Name, **given: Any) -> None:
    """Lead aliases and stages after what was set by hand in MLflow's UI."""
    configure_logging()
    from eyevsai.workflows.registry.promote import reconcile as job

    print("\n".join(job(name, config.find_state_dir(given))) or f"Nothing of {name} disagrees.")


def pin(name: Name, version: Version, reason: Reason = None, **given: Any) -> None:
    """Keep a version from every cleanup."""
    _pin(name, version, reason, given, pinned=True)
    print(f"models:/{name}/{version} is pinned: no cleanup deletes it")


def unpin(name: Name, version: Version, reason: Reason = None, **given: Any) -> None:
    """Let cleanups have a version again."""
    _pin(name, version, reason, given, pinned=False)
    print(f"models:/{name}/{version} is not pinned any more")


def _pin(
    name: str, version: int, reason: str | None, given: dict[str, Any], *, pinned: bool
) -> None:
    configure_logging()
    from eyevsai.workflows.registry.promote import pin as job

    job(name, version, config.find_state_dir(given), pinned=pinned, reason=reason)


def import_registry(
    path: Annotated[str, argument(ORIGINAL, "FILE")], as_json: Json = False
) -> None:
    """Write what the original's registry knew as runs and versions, once. Exit code 1 when records
    are left out.
    """
    configure_logging()
    from eyevsai.workflows.registry.import_legacy import import_legacy_registry as job

    done = job(Path(path))
    if as_json:
        print(json.dumps(to_json(done), indent=2, ensure_ascii=False))
    else:
        for each in done.written:
            print(f"{each.model_id}: {each.model_uri or 'a failed training'}, run {each.run_id}")
        for unknown in done.unknown_types:
            print(f"{unknown} is no model of eyevsai: kept as it is")
        for bad in done.left_out:
            print(f"left out: {bad.record} {bad.reason}")
        if not (done.written or done.there or done.left_out):
            print(f"{path} holds no records")
        print(
            f"{len(done.written)} imported, {len(done.there)} were there already, "
            f"{len(done.left_out)} left out"
        )
    if done.left_out:
        raise typer.Exit(1)

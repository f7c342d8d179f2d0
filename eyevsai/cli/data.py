"""The `eyevsai data` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.options import (
    Json,
    argument,
    merge_named,
    pick_settings,
    pop_settings,
    with_options,
)
from eyevsai.core.errors import UserError
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import list_settings
from eyevsai.data.settings import DataSettings, DownloadSettings
from eyevsai.reports.settings import CheckPage

DATA, DATASET = *pick_settings(DataSettings, "data"), *pick_settings(DownloadSettings, "dataset")
Folder = Annotated[str | None, argument(DATA, "FOLDER", "A folder of class folders.")]


def build_app() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(help="Get a dataset, look at it, or clear the cache.")
    download_options = with_options(download, list_settings(DownloadSettings))
    app.command(name="download")(download_options)
    app.command(name="get", hidden=True)(download_options)
    flags = pick_settings(
        DataSettings,
        "dataset",
        "data_dir",
        "labels",
        "groups",
        "duplicates",
        "bit_depth",
        "cache_dir",
    )
    app.command(name="check")(with_options(check, (*flags, *list_settings(CheckPage))))
    app.command(name="stats")(with_options(stats, flags))
    app.command(name="cache")(with_options(cache, pick_settings(DataSettings, "cache_dir")))
    return app


def download(
    name: Annotated[str | None, argument(DATASET, "NAME", "The same as --dataset.")] = None,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Get a published dataset, checked and laid out as class folders: pets, vegetables,
    street_foods, instruments.

    combined is the first, third and fourth of them, combined_all all four. What is there already is
    left alone, a download that was interrupted goes on, and without network you are told what to
    download by hand.
    """
    settings = config.compose(DownloadSettings, merge_named(name, given, "dataset"))
    configure_logging()
    from eyevsai.workflows.data.download_dataset import download_datasets

    got = download_datasets(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(got), indent=2, ensure_ascii=False))
        return
    for part in got:
        splits = ", ".join(f"{count} {split}" for split, count in part.splits.items())
        print(
            f"{part.name}: {'' if part.is_new else 'there already: '}{part.images} images in "
            f"{len(part.classes)} classes{f' ({splits})' if splits else ''} at {part.folder}"
        )
    if len(got) > 1:
        print(
            f"{settings.dataset}: {sum(len(part.classes) for part in got)} classes, composed of "
            "these when it is read"
        )
    print(f"Next: eyevsai train --dataset {settings.dataset}")


def check(folder: Folder = None, as_json: Json = False, **given: Any) -> None:
    """Look at every file: bad ones, duplicates, classes. Exit code 1 when files are bad."""
    from eyevsai.workflows.data.inspect import check_data

    page = Path(pop_settings(CheckPage, given).page)
    found = check_data(_data_settings(folder, given), page)
    report = found.report()
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print(found.describe_classes())
        groups, pairs = len(report["duplicates"]), len(found.conflicts)
        print(
            f"{len(found.bad)} bad, {len(found.wrong_extension)} with a wrong extension; "
            f"{groups} groups of duplicates, {len(found.left_out)} left out; {pairs} pairs alike "
            "in two classes"
        )
        if report["not_used"]:
            print(f"not used: {report['not_used']}")
        for note in found.notes:
            print(note)
        for file, record in found.bad:
            print(f"bad        {file.path}: {record.error}")
        for file, record in found.wrong_extension:
            print(f"wrong extension  {file.path} is {record.kind}")
        for group in report["duplicates"]:
            print(
                f"{'equal     ' if group['exact'] else 'alike     '} {'  '.join(group['images'])}"
            )
        for one, other in report["conflicts"]:
            print(f"conflict   {one}  {other}")
        print(f"See {page}")
    if found.bad:
        raise typer.Exit(1)


def stats(folder: Folder = None, as_json: Json = False, **given: Any) -> None:
    """Print images by class and format, sizes and imbalance."""
    from eyevsai.workflows.data.inspect import describe_data

    described = describe_data(_data_settings(folder, given))
    if as_json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
        return
    classes = described.pop("classes")
    for label, count in classes.items():
        print(f"{count:>7}  {label}")
    for name, value in described.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all that is cached.")] = False,
    **given: Any,
) -> None:
    """Say how large the cache of pixels and features is, or clear it."""
    from eyevsai.workflows.data.inspect import cache_bytes, clear_cache

    root = Path(config.compose_data(given).cache_dir).expanduser()
    if clear:
        print(f"freed {clear_cache(root) / 1e6:.1f} MB in {root}")
    else:
        print(f"{cache_bytes(root) / 1e6:.1f} MB in {root}; --clear deletes them")


def _data_settings(folder: str | None, given: dict[str, Any]) -> DataSettings:
    if (folder is None) == ("dataset" not in given):
        raise UserError(
            "Name a folder, or a dataset with --dataset. One of them. Known datasets: `eyevsai "
            "list`."
        )
    configure_logging()
    return config.compose_data(given | {"data": folder})

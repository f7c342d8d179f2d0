"""Commands of the group `eyevsai data`."""

from __future__ import annotations

import json
import sys
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
from eyevsai.core.paths import expand
from eyevsai.core.settings import list_settings
from eyevsai.core.terminal import wrap_items, wrap_message
from eyevsai.data.settings import DataSettings, DownloadSettings
from eyevsai.reports.settings import CheckPage
from eyevsai.workflows.startup import starting

DATA, DATASET = *pick_settings(DataSettings, "data"), *pick_settings(DownloadSettings, "dataset")
Folder = Annotated[str | None, argument(DATA, "FOLDER", "Same as --data.")]


def build_app() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="Download, check or describe a dataset, or clear the cache.")
    download_options = with_options(download, list_settings(DownloadSettings))
    app.command(name="download")(download_options)
    app.command(name="get", hidden=True)(download_options)
    dataset_settings = pick_settings(
        DataSettings,
        "dataset",
        "data",
        "data_dir",
        "labels",
        "groups",
        "duplicates",
        "bit_depth",
        "cache_dir",
    )
    app.command(name="check")(with_options(check, (*dataset_settings, *list_settings(CheckPage))))
    app.command(name="stats")(with_options(stats, dataset_settings))
    app.command(name="cache")(with_options(cache, pick_settings(DataSettings, "cache_dir")))
    return app


def download(
    name: Annotated[str | None, argument(DATASET, "NAME", "Same as --dataset.")] = None,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Download a published dataset as class folders: pets, vegetables, street_foods, instruments.

    combined is the union of pets, street_foods and instruments; combined_all is the union of all
    four. The archive's checksum is verified. An existing dataset is kept, and an interrupted
    download is resumed. Without network, the error lists the files to download manually.
    """
    settings = config.compose(DownloadSettings, merge_named(name, values, "dataset"))
    configure_logging()
    from eyevsai.workflows.data.download_dataset import download_datasets

    downloads = download_datasets(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(downloads), indent=2, ensure_ascii=False))
        return
    for part in downloads:
        splits = ", ".join(f"{count} {split}" for split, count in part.splits.items())
        print(
            f"{part.name}: {'' if part.is_new else 'already downloaded: '}{part.images} images in "
            f"{len(part.classes)} classes{f' ({splits})' if splits else ''} at {part.folder}"
        )
    if len(downloads) > 1:
        print(
            f"{settings.dataset}: {sum(len(part.classes) for part in downloads)} classes, the "
            "union of these datasets"
        )
    print(f"Next: eyevsai train --dataset {settings.dataset}")


def check(folder: Folder = None, as_json: Json = False, **values: Any) -> None:
    """Check every file: bad files, duplicates, classes. Exit code 1 if files are bad."""
    page = Path(pop_settings(CheckPage, values).page)
    settings = named_data_settings(folder, values)
    with starting(settings, page=page, modules=(), has_store=False):
        from eyevsai.workflows.data.inspect import check_data

    curated = check_data(settings, page)
    report = curated.report()
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print(wrap_message(curated.describe_classes(), sys.stdout))
        groups, pairs = len(report["duplicates"]), len(curated.conflicts)
        print(
            wrap_message(
                f"{len(curated.bad)} bad, {len(curated.wrong_extension)} with a wrong extension; "
                f"{groups} groups of duplicates, {len(curated.left_out)} excluded; {pairs} pairs "
                "of duplicates in two classes",
                sys.stdout,
            )
        )
        if report["not_used"]:
            print(wrap_message(f"not used: {report['not_used']}", sys.stdout))
        for note in curated.notes:
            print(wrap_message(note, sys.stdout))
        for file, record in curated.bad:
            _print_finding("bad", f"{file.path} {record.error}")
        for file, record in curated.wrong_extension:
            _print_finding("wrong extension", f"{file.path} is {record.kind}")
        for group in report["duplicates"]:
            _print_finding("exact" if group["exact"] else "near", *group["images"])
        for pair in report["conflicts"]:
            _print_finding("conflict", *pair)
        print(f"See {page}")
    if curated.bad:
        raise typer.Exit(1)


def _print_finding(kind: str, *texts: str) -> None:
    print(wrap_items(texts, f"{kind:<17}"))


def stats(folder: Folder = None, as_json: Json = False, **values: Any) -> None:
    """Print image counts by class and format, image sizes and class imbalance."""
    settings = named_data_settings(folder, values)
    with starting(settings, modules=(), has_store=False):
        from eyevsai.workflows.data.inspect import describe_data

    statistics = describe_data(settings)
    if as_json:
        print(json.dumps(statistics, indent=2, ensure_ascii=False))
        return
    classes = statistics.pop("classes")
    for label, count in classes.items():
        print(f"{count:>7}  {label}")
    for name, value in statistics.items():
        print(wrap_message(f"{name}: {_format_statistic(value)}", sys.stdout))


def _format_statistic(value: Any) -> str:
    """Return a value as text: counts by name as `JPEG (550)`, and a range by its three values."""
    if isinstance(value, dict):
        return ", ".join(f"{name} ({count})" for name, count in value.items())
    if isinstance(value, list):
        low, median, high = value
        return f"{low} to {high}, median {median}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all cached files.")] = False,
    **values: Any,
) -> None:
    """Print the size of the cache of pixels and features, or clear it."""
    from eyevsai.workflows.data.inspect import cache_bytes, clear_cache

    root = expand(config.compose_data(values).cache_dir)
    if clear:
        print(f"freed {clear_cache(root) / 1e6:.1f} MB in {root}")
    else:
        print(f"{cache_bytes(root) / 1e6:.1f} MB in {root}; --clear deletes them")


def named_data_settings(folder: str | None, values: dict[str, Any]) -> DataSettings:
    """Return the data settings; raise UserError unless exactly one dataset is named."""
    values = merge_named(folder, values, "data")
    if ("data" in values) == ("dataset" in values):
        raise UserError("Name a folder or --dataset, and not both. Known datasets: `eyevsai list`.")
    configure_logging()
    return config.compose_data(values)

"""The commands about models: evaluate, compare, export, predict, report, describe, list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.options import (
    UNPARSED,
    Json,
    check_extra_arguments,
    pick_settings,
    pop_settings,
    with_options,
)
from eyevsai.cli.output import where_to_view
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import Setting, list_settings
from eyevsai.data.settings import DataSettings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.reports.settings import ComparisonPage, DescribeSettings, ReportSettings
from eyevsai.serving.settings import PredictSettings


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the application."""
    app.command(rich_help_panel="Jobs")(with_options(evaluate, list_settings(EvaluateSettings)))
    app.command(rich_help_panel="Jobs")(with_options(compare, list_settings(ComparisonPage)))
    app.command(rich_help_panel="Jobs")(with_options(export, list_settings(ExportSettings)))
    app.command(rich_help_panel="Jobs")(with_options(predict, list_settings(PredictSettings)))
    app.command(rich_help_panel="Jobs")(with_options(report, list_settings(ReportSettings)))


def add_descriptions_to(app: typer.Typer, settings: Sequence[Setting]) -> None:
    """Add `list` and `describe`, which takes the `settings` of `train`."""
    app.command(name="list")(with_options(list_all, pick_settings(DataSettings, "data_dir")))
    app.command(context_settings=UNPARSED)(
        with_options(describe, (*list_settings(DescribeSettings), *settings))
    )


def evaluate(as_json: Json = False, **given: Any) -> None:
    """Judge a trained model by images that it has not seen, and log figures, pictures and a
    report.
    """
    settings = config.compose(EvaluateSettings, given)
    configure_logging()
    from eyevsai.workflows.evaluate.evaluate import evaluate as job

    done = job(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(done), indent=2))
        return
    found = done.metrics
    print(
        f"{done.model} on {done.images} images of {done.dataset}\naccuracy "
        f"{found['accuracy']:.4f} ({found['accuracy_low']:.4f} to {found['accuracy_high']:.4f}), "
        f"loss {found['loss']:.4f}, calibration error {found['ece']:.4f}\n"
        f"{found['images_per_s']:.0f} images/s, {found['latency_ms']:.1f} ms for one; in "
        f"{done.seconds:.0f} s\nrun {done.run_id} has test_report.html; {where_to_view()}"
    )


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="Run ids or model URIs; the others are held against the first."),
    ],
    as_json: Json = False,
    **given: Any,
) -> None:
    """Hold evaluated models against each other: settings, figures, and the images that only one has
    right.
    """
    page = Path(config.compose(ComparisonPage, given).page)
    configure_logging()
    from eyevsai.workflows.evaluate.compare import compare as job

    found = job(models, page)
    if as_json:
        print(json.dumps(to_json(found), indent=2))
        return
    from eyevsai.reports.comparison_table import print_comparison

    print_comparison(to_json(found))
    print(f"See {page}")


def export(as_json: Json = False, **given: Any) -> None:
    """Write a trained model as files for other runtimes; what does not say the same as the model is
    refused.
    """
    settings = config.compose(ExportSettings, given)
    configure_logging()
    if settings.package is not None:
        _package(settings, as_json)
        return
    from eyevsai.workflows.export.export import export as job

    done = job(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(done), indent=2))
        return
    for each in done:
        metrics = ", ".join(f"{name} {value:.3g}" for name, value in each.parity.metrics.items())
        print(
            f"{each.format}: {each.uri}, {each.size_bytes / 1e6:.1f} MB, in {each.seconds:.0f} "
            f"s\n  {metrics}"
        )


def _package(settings: ExportSettings, as_json: bool) -> None:
    from eyevsai.workflows.export.bundle import bundle

    done = bundle(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(done), indent=2))
        return
    for model in done.models:
        print(
            f"{model['dataset']}: {model['model_uri']}, {model['metric']} "
            f"{model['accuracy']:.4f}, as {', '.join(model['formats'])}"
        )
    print(f"See {done.folder}; it is logged on run {done.run_id}")


def predict(
    model: Annotated[
        str, typer.Argument(help="A model URI, or the folder or file of a model or an export.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders, or - for their names from standard input."),
    ],
    as_json: Json = False,
    **given: Any,
) -> None:
    """Say what images show: a table, or with --json a line for each image. Exit code 1 when one
    cannot be read.
    """
    settings = config.compose(PredictSettings, given)
    configure_logging()
    from eyevsai.workflows.predict import predict as job

    bad = 0
    for each in job(model, images, settings.top_k, settings.threshold, trusted=settings.trusted):
        bad += each.error is not None
        if as_json:
            print(json.dumps(to_json(each), ensure_ascii=False))
        else:
            print(each.to_text())
    if bad:
        raise typer.Exit(1)


def report(as_json: Json = False, **given: Any) -> None:
    """Write all models into tables, pictures, a page to read, and the file that a game's backend
    reads.
    """
    settings = config.compose(ReportSettings, given)
    configure_logging()
    from eyevsai.workflows.report.report import report as job

    done = job(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(done), indent=2))
        return
    print(
        f"{done.models} models of {done.versions} versions, {done.ready} of them ready to be "
        "deployed"
    )
    for path in done.files.values():
        print(path)


def list_all(as_json: Json = False, **given: Any) -> None:
    """List families, variations and datasets."""
    from eyevsai.workflows.describe import list_inventory

    inventory = list_inventory(_data_dir(given))
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
    check_extra_arguments(context, given)
    num_classes = pop_settings(DescribeSettings, given).num_classes
    # the family's own defaults, not those that suit the digits
    own = {} if "dataset" in given else {"data": "any"}
    composed = config.compose_train(own | given).model
    from eyevsai.reports.model_card import render_card
    from eyevsai.workflows.describe import describe as job

    described = job(composed, num_classes)
    print(json.dumps(described, indent=2) if as_json else render_card(described))


def _data_dir(given: dict[str, Any]) -> Path:
    return Path(config.compose_data(given).data_dir).expanduser()

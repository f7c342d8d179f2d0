"""Commands for models: evaluate, compare, export, predict, report, describe, list."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.completion import COMPLETERS
from eyevsai.cli.options import (
    UNPARSED,
    Json,
    merge_model,
    merge_named,
    pick_settings,
    pop_settings,
    with_options,
)
from eyevsai.cli.output import format_comparison_hint, format_run_hint
from eyevsai.cli.words import check_extra_arguments, is_model_name, take_model
from eyevsai.core.errors import UserError
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.model_ref import MODEL_FORMS, VERSION_FORMS
from eyevsai.core.paths import expand, is_dir, is_file
from eyevsai.core.quantities import format_count
from eyevsai.core.settings import Setting, as_flag, list_settings
from eyevsai.core.shell import quote
from eyevsai.core.terminal import wrap, wrap_message
from eyevsai.data.settings import DataSettings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.reports.settings import ComparisonPage, DescribeSettings, ReportSettings
from eyevsai.serving.settings import PredictSettings
from eyevsai.workflows.image_paths import find_images
from eyevsai.workflows.startup import starting

# settings that people change first, in the order of the help
MOST_USED_OF_EVALUATE = ("data", "class_map", "target_precision")
MOST_USED_OF_EXPORT = ("format", "output", "package", "prune")
MOST_USED_OF_DESCRIBE = ("model", "variation", "num_classes", "image_size")
MARKDOWN_LINES = ("|", "#")  # first characters of lines of a card that are not wrapped

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help=f"{VERSION_FORMS}, with or without models:/, or a run id.",
        show_default=False,
    ),
]

Selection = Annotated[
    str | None,
    typer.Argument(
        metavar="MODELS",
        help="Families or family/variation, comma-separated; all by default.",
        show_default=False,
        autocompletion=COMPLETERS["models"],
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the application, without `list` and `describe`."""
    app.command(rich_help_panel="Jobs")(
        with_options(evaluate, list_settings(EvaluateSettings), MOST_USED_OF_EVALUATE)
    )
    app.command(rich_help_panel="Jobs")(with_options(compare, list_settings(ComparisonPage)))
    app.command(rich_help_panel="Jobs")(
        with_options(export, list_settings(ExportSettings), MOST_USED_OF_EXPORT)
    )
    app.command(rich_help_panel="Jobs")(with_options(predict, list_settings(PredictSettings)))
    app.command(rich_help_panel="Jobs")(with_options(report, list_settings(ReportSettings)))


def add_descriptions_to(app: typer.Typer, settings: Sequence[Setting]) -> None:
    """Add `list`, and `describe` with the `settings` of `train`, to the application."""
    app.command(name="list")(with_options(list_all, pick_settings(DataSettings, "data_dir")))
    app.command(context_settings=UNPARSED, options_metavar="[OPTIONS] [MODEL]")(
        with_options(describe, (*list_settings(DescribeSettings), *settings), MOST_USED_OF_DESCRIBE)
    )


def evaluate(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """Evaluate a trained model on unseen images, and log metrics, plots and a report."""
    settings = config.compose(EvaluateSettings, merge_model(model, values, "model_uri"))
    configure_logging()
    with starting(settings, is_silent=as_json):
        from eyevsai.workflows.evaluate.evaluate import evaluate as job

    result = job(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(result), indent=2))
        return
    metrics = result.metrics
    print(
        f"{result.model} on {format_count(result.images, 'image')} of {result.dataset}\naccuracy "
        f"{metrics['accuracy']:.4f} ({metrics['accuracy_low']:.4f} to "
        f"{metrics['accuracy_high']:.4f}), loss {metrics['loss']:.4f}, calibration error "
        f"{metrics['ece']:.4f}\n{metrics['images_per_s']:.0f} images/s, "
        f"{metrics['latency_ms']:.1f} ms for one; in {result.seconds:.0f} s\n"
        f"run {result.run_id} has test_report.html; {format_run_hint(result.run_id)}"
    )


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help=f"{VERSION_FORMS}, or run ids; each model is compared with the first one."
        ),
    ],
    as_json: Json = False,
    **values: Any,
) -> None:
    """Compare evaluated models: settings, metrics, and images that only one model gets right."""
    page = Path(config.compose(ComparisonPage, values).page)
    configure_logging()
    with starting(page=page, references=models, is_silent=as_json):
        from eyevsai.workflows.evaluate.compare import compare as job

    comparison = job(models, page)
    if as_json:
        print(json.dumps(to_json(comparison), indent=2))
        return
    from eyevsai.reports.comparison_table import print_comparison

    print_comparison(to_json(comparison))
    hint = format_comparison_hint([each.run_id for each in comparison.models])
    print(f"See {page}. In MLflow, {hint}")


def export(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """Export a trained model to files for other runtimes.

    An export is refused if its predictions differ from the model's.
    """
    settings = config.compose(ExportSettings, merge_model(model, values, "model_uri"))
    configure_logging()
    if settings.package is not None:
        _export_package(settings, as_json)
        return
    with starting(settings, is_silent=as_json):
        from eyevsai.workflows.export.export import export as job

    exports = job(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(exports), indent=2))
        return
    for each in exports:
        print(f"{each.format}: {each.uri}, {each.size_bytes / 1e6:.1f} MB, in {each.seconds:.0f} s")
        print(wrap_message(each.parity.describe(), sys.stdout, "  "))


def _export_package(settings: ExportSettings, as_json: bool) -> None:
    with starting(settings, is_silent=as_json):
        from eyevsai.workflows.export.bundle import bundle

    result = bundle(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(result), indent=2))
        return
    for model in result.models:
        print(
            f"{model['dataset']}: {model['model_uri']}, {model['metric']} "
            f"{model['accuracy']:.4f}, as {', '.join(model['formats'])}"
        )
    print(f"See {result.folder}; logged on run {result.run_id}")


def predict(
    model: Annotated[
        str, typer.Argument(help=f"{MODEL_FORMS}; also models:/... and runs:/... URIs.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="Image files or folders; - reads their paths from standard input."),
    ],
    as_json: Json = False,
    **values: Any,
) -> None:
    """Classify images, and print a table, or with --json a line for each image.

    Exit code 1 if an image cannot be read.
    """
    settings = config.compose(PredictSettings, values)
    configure_logging()
    paths, path = find_images(images), expand(model)
    is_local = is_file(path) or is_dir(path)
    with starting(loaded_model=model, has_store=not is_local, is_silent=as_json):
        from eyevsai.workflows.predict import predict as job

    errors = 0
    for each in job(model, paths, settings.top_k, settings.threshold, trusted=settings.trusted):
        errors += each.error is not None
        if as_json:
            print(json.dumps(to_json(each), ensure_ascii=False))
        else:
            print(each.to_text())
    if errors:
        print(f"Error: {errors} of {len(paths)} images cannot be read.", file=sys.stderr)
        raise typer.Exit(1)


def report(selection: Selection = None, as_json: Json = False, **values: Any) -> None:
    """Report all models: write tables, plots, an HTML page, and the file for a game backend."""
    settings = config.compose(ReportSettings, merge_named(selection, values, "models"))
    configure_logging()
    with starting(settings, modules=("mlflow",), is_silent=as_json):
        from eyevsai.workflows.report.report import report as job

    result = job(settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(result), indent=2))
        return
    print(
        f"{format_count(result.models, 'model')} with {format_count(result.versions, 'version')}, "
        f"{result.ready} ready for deployment"
    )
    for path in result.files.values():
        print(path)


def list_all(models: Selection = None, as_json: Json = False, **values: Any) -> None:
    """List families, variations and datasets."""
    from eyevsai.workflows.describe import list_inventory

    inventory = list_inventory(_data_dir(values), models)
    if as_json:
        print(json.dumps(to_json(inventory), indent=2, ensure_ascii=False))
        return
    families, datasets = inventory["models"], inventory["datasets"]
    variations = (name for about in families.values() for name in about["variations"])
    width = 2 + max(map(len, (*datasets, *variations)))
    for family, about in families.items():
        print(f"{family}: {about['title']}")
        for variation, descriptions in about["variations"].items():
            indent = " " * (2 + width)
            print(wrap(descriptions["technical"], f"  {variation:<{width}}"))
            print(wrap(descriptions["simple"], indent))
            if measured := descriptions["measured"].describe():
                print(wrap(measured, indent))
    print("datasets:")
    for name, text in datasets.items():
        print(wrap(text, f"  {name:<{width}}"))


def describe(context: typer.Context, as_json: Json = False, **values: Any) -> None:
    """Describe a model: layers, parameters, operations and papers. Accepts the options of train.

    MODEL is a family or family/variation, as with --model, or a trained model: NAME/VERSION, a run
    id or a folder.
    """
    if context.args and not context.args[0].startswith("-") and not is_model_name(context.args[0]):
        _describe_trained(context, as_json, values)
        return
    values = take_model(context, values)
    check_extra_arguments(context, values)
    num_classes = pop_settings(DescribeSettings, values).num_classes
    # --data disables the preset of digits, the default dataset; the folder is not read
    dataset = {} if "dataset" in values else {"data": "any"}
    composed = config.compose_train(dataset | values).model
    from eyevsai.workflows.describe import describe as job

    description = job(composed, num_classes)
    _print_description(description, as_json)


def _print_description(description: dict[str, Any], as_json: bool) -> None:
    """Print a model card or JSON. On a terminal, the paragraphs of the card are wrapped."""
    if as_json:
        print(json.dumps(description, indent=2))
        return
    from eyevsai.reports.model_card import render_card

    for line in render_card(description).splitlines():
        is_kept = line.startswith(MARKDOWN_LINES)
        print(line if is_kept else wrap_message(line, sys.stdout))


def _describe_trained(context: typer.Context, as_json: bool, values: dict[str, Any]) -> None:
    """Describe the trained model that the first argument names.

    Raises:
        UserError: there are further arguments or options, which a trained model does not have.
    """
    model = context.args[0]
    if context.args[1:] or values:
        extra = context.args[1:] or [as_flag(name) for name in values]
        raise UserError(
            f"Unexpected argument {extra[0]!r}: the settings of the trained model {model} are "
            f"fixed. Use: eyevsai describe {quote(model)}"
        )
    configure_logging()
    is_local = is_file(expand(model)) or is_dir(expand(model))
    with starting(loaded_model=model, has_store=not is_local, is_silent=as_json):
        from eyevsai.workflows.describe import describe_trained

    _print_description(describe_trained(model), as_json)


def _data_dir(values: dict[str, Any]) -> Path:
    return expand(config.compose_data(values).data_dir)

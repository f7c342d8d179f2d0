"""Command `recommend`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from eyevsai.cli.data import Folder, named_data_settings
from eyevsai.cli.options import Json, pick_settings, pop_settings, with_options
from eyevsai.core.json import to_json
from eyevsai.core.settings import Doc, Range, Settings, list_settings
from eyevsai.core.terminal import wrap, wrap_message
from eyevsai.data.settings import DataSettings
from eyevsai.workflows.startup import starting

DATASET = (
    *("dataset", "data", "data_dir", "labels", "groups", "duplicates", "bit_depth"),
    "cache_dir",
)


@dataclass(frozen=True)
class RecommendSettings(Settings):
    """Time budget of the training to recommend."""

    PANEL: ClassVar[str] = "Training"

    minutes: Annotated[
        float, Range(0.05, 100_000), Doc("Time budget of the training, in minutes.")
    ] = 10.0


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    settings = (*list_settings(RecommendSettings), *pick_settings(DataSettings, *DATASET))
    app.command(rich_help_panel="Jobs")(with_options(recommend, settings))


def recommend(folder: Folder = None, as_json: Json = False, **values: Any) -> None:
    """Look at a dataset and this machine, and recommend what to train.

    Each family is probed for seconds. Nothing is trained or stored.
    """
    minutes = pop_settings(RecommendSettings, values).minutes
    if folder is not None:
        values = {**values, "data": folder}
    settings = named_data_settings(folder, values)
    with starting(settings, modules=("torch",), has_store=False, is_silent=as_json):
        from eyevsai.workflows.recommend import recommend as job

    result = job(settings, values, minutes)
    if as_json:
        print(json.dumps(to_json(result), indent=2, ensure_ascii=False))
        return
    data, width = result.dataset, max(len(each.model) for each in result.candidates)
    print(
        f"{data['name']}: {data['images']} images in {data['classes']} classes, "
        f"{data['train_images']} to train on; median short side {data['short_side_px']:.0f} px\n"
        f"{result.machine}; expected in {minutes:g} min:\n"
    )
    for candidate in result.candidates:
        print(wrap(f"{candidate.expected}; {candidate.reason}", f"  {candidate.model:<{width}}  "))
    print(f"\nRecommended: {result.candidates[0].command}")
    for line in (*result.notes, result.better):
        if line:
            print(wrap_message(line, sys.stdout))

"""Descriptions of registered models and versions, as MLflow's UI shows them.

They are Markdown. Only the part between the markers of `core.marked_text` is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.marked_text import replace_part
from eyevsai.core.model_ref import parse_version_uri
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.classes import name_some, read_classes, recorded_classes
from eyevsai.registry.entities import KnownVersion, RegisteredModel, find_model, open_registry
from eyevsai.registry.stages import STAGES, stage_holder, stage_of
from eyevsai.registry.versions import TESTED, TESTED_INTERVAL, THRESHOLD, Version, exports_of
from eyevsai.store.backend import MISSING
from eyevsai.store.tags import PRUNED_FROM, SOURCE_VERSION
from eyevsai.store.ui_links import run_page, version_page

log = logging.getLogger("eyevsai")

LONGEST = 5000  # characters of a description that MLflow's databases store
PASSED = "passed"  # parity result of an export
ATTEMPTS = 3  # to describe a model that other processes change at the same time


def write_descriptions(client: MlflowClient, name: str, numbers: Sequence[int]) -> None:
    """Update the descriptions of a registered model and of some of its versions.

    Does nothing for a model or a version that does not exist. A version whose stage was set by hand
    is left out: an update would make it the last changed one, which holds the stage.

    Args:
        client: client of the store.
        name: name of the registered model.
        numbers: numbers of the versions that changed.
    """
    for _ in range(ATTEMPTS):
        model = find_model(client, name)
        if model is None or not _write_once(client, model, numbers):
            return


def update_descriptions(tracking_uri: str, version: Version) -> None:
    """Update the descriptions of a version, or of the one that it references, and of its model."""
    name, number = parse_version_uri(version.source_version) or (version.name, int(version.number))
    write_descriptions(open_registry(tracking_uri), name, [number])


def _write_once(client: MlflowClient, model: RegisteredModel, numbers: Iterable[int]) -> bool:
    """Update the descriptions of a snapshot; return True if one of them changed."""
    by_hand = {title for stage, title in STAGES.items() if stage_holder(model, stage).by_hand}
    updates = list[Callable[[], object]]()
    for version in model.versions:
        if version.number in numbers and version.stage not in by_hand:
            part = describe_version(model, version, _find_run_url(client, version.run_id))
            if text := _update(version.uri, version.description, part):
                number = str(version.number)
                updates.append(partial(client.update_model_version, model.name, number, text))
    if text := _update(model.name, model.description, describe_model(model)):
        updates.append(partial(client.update_registered_model, model.name, text))
    for update in updates:
        try:
            retry_on_conflict(update)
        except MlflowException as error:
            if error.error_code != MISSING:  # it was deleted meanwhile
                raise
    return bool(updates)


def describe_version(model: RegisteredModel, version: KnownVersion, run_url: str | None) -> str:
    """Return the description of a version: accuracy, data, exports, stage and run.

    The accuracy comes first, because tables show the first characters only.

    Args:
        model: registered model of the version.
        version: the version.
        run_url: URL of the page of the training run; None if the run was deleted.
    """
    tags = version.tags
    if source := tags.get(SOURCE_VERSION):
        return f"Reference to {_code(source)}, which has the metrics and the exports."
    classes = read_classes(tags) or recorded_classes(model)
    sentences = [f"{_describe_accuracy(tags)} on {_describe_data(model, classes)}."]
    if TESTED not in tags:
        sentences.append("Not evaluated on the test split yet.")
    if threshold := tags.get(THRESHOLD):
        sentences.append(f"Predictions below a confidence of {_shorten(threshold)} are `unsure`.")
    exports = exports_of(tags)
    passed = [name for name, result in exports.items() if result == PASSED]
    refused = [name for name in exports if name not in passed]
    sentences += [f"Exports: {', '.join(passed)}."] if passed else []
    sentences += [f"Refused exports: {', '.join(refused)}."] if refused else []
    sentences += _describe_stage(model, version)
    if pruned := tags.get(PRUNED_FROM):
        sentences.append(f"Pruned from {_code(pruned)}.")
    if run_url is not None:
        sentences.append(f"[Training run]({run_url}).")
    return " ".join(sentences)


def describe_model(model: RegisteredModel) -> str:
    """Return the description of a registered model: data, classes, stages and newest version."""
    tags, classes = model.tags, recorded_classes(model)
    text = f"Classifier of {_describe_data(model, classes)}"
    text += f": {_code(name_some(classes))}." if classes else "."
    if tags.get("model") and tags.get("variation"):
        text += f" Model: {tags['model']}/{tags['variation']}."
    lines = [text]
    by_number = {version.number: version for version in model.versions}
    for stage, title in STAGES.items():
        if version := by_number.get(stage_holder(model, stage).version or 0):
            lines.append(f"{title}: {_link(version)}.")
    if model.versions:
        lines.append(f"Newest: {_link(model.versions[-1])}.")
    return "\n\n".join(lines)


def _find_run_url(client: MlflowClient, run_id: str) -> str | None:
    """Return the URL of a run's page, relative to the UI; None if the run was deleted."""
    try:
        info = client.get_run(run_id).info if run_id else None
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        info = None
    if info is None or info.lifecycle_stage != "active":
        return None
    return _relative(run_page(info.experiment_id, run_id))


def _describe_accuracy(tags: Mapping[str, str]) -> str:
    """Return test accuracy with its interval, else valid accuracy, at the start of a sentence."""
    if TESTED in tags:
        interval = tags.get(TESTED_INTERVAL)
        return f"Test accuracy {tags[TESTED]}" + (
            f" (95 % interval {interval})" if interval else ""
        )
    return f"Valid accuracy {tags['accuracy']}" if "accuracy" in tags else "Unknown accuracy"


def _describe_data(model: RegisteredModel, classes: Sequence[str] | None) -> str:
    """Return the dataset, with the number of its classes if that is recorded."""
    dataset = _code(model.tags.get("dataset", "unknown data"))
    return f"{dataset}, {len(classes)} classes" if classes else dataset


def _describe_stage(model: RegisteredModel, version: KnownVersion) -> Iterator[str]:
    """Yield a sentence about the stage that a version holds, and about its time in Production."""
    stage = stage_of(model, version.number)
    days = {key: version.tags.get(f"production.{key}", "")[:10] for key in ("at", "until")}
    if stage is not None:
        since = version.tags.get(f"{stage}.at", "")[:10]
        yield f"In {STAGES[stage]}{f' since {since}' if since else ''}."
    if stage != "production" and all(days.values()):
        yield f"In Production from {days['at']} to {days['until']}."


def _link(version: KnownVersion) -> str:
    """Return a link to a version, with its accuracy."""
    page, accuracy = version_page(version.name, version.number), _describe_accuracy(version.tags)
    return f"[version {version.number}]({_relative(page)}), {accuracy[:1].lower()}{accuracy[1:]}"


def _relative(page: str) -> str:
    """Return the path of a page without its first slash: it is valid on any address of the UI."""
    return page.removeprefix("/")


def _code(text: str) -> str:
    """Return a text as code in Markdown, which has no other formatting."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _shorten(number: str) -> str:
    """Return a number with four decimals; another text, which users may enter, is unchanged."""
    try:
        return f"{float(number):.4f}"
    except ValueError:
        return number


def _update(title: str, text: str, part: str) -> str | None:
    """Return a description with another part of eyevsai; None if it needs no update.

    Logs a warning if it would be too long.

    Args:
        title: name of the object, for the warning.
        text: current description.
        part: new part of eyevsai.
    """
    updated = replace_part(text, part)
    if updated == text:
        return None
    if len(updated) <= LONGEST:
        return updated
    log.warning(
        "The description of %s is not updated: it would have %d characters, more than the %d that "
        "MLflow stores. Shorten it in MLflow's UI.",
        title,
        len(updated),
        LONGEST,
    )
    return None

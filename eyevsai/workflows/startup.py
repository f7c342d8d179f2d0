"""Start of a command: its inputs are checked before the import of the workflow, which takes longer.

Imports neither torch nor MLflow. A check raises the same error as the workflow would, and writes
nothing; the workflow repeats it, because files may change meanwhile.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.loading import loading
from eyevsai.core.model_ref import MODEL_FORMS, check_trained, parse_model
from eyevsai.core.paths import expand, is_dir, is_file
from eyevsai.data.catalog import EMBEDDED, find_source
from eyevsai.data.files import subfolders
from eyevsai.data.folder_layout import read_layout
from eyevsai.data.settings import DataSettings
from eyevsai.evaluation.class_map import read_class_map
from eyevsai.registry.settings import read_policy
from eyevsai.store.uris import MLRUNS, VARIABLE, check_uri, select_experiment
from eyevsai.tuning.settings import read_space

Values = Mapping[str, Any]
MAX_LISTED = 3  # subfolders of a dataset whose layout is checked early: no classes, or only splits


@contextmanager
def starting(
    *parts: object,
    modules: tuple[str, ...] = ("torch", "mlflow"),
    has_store: bool = True,
    is_silent: bool = False,
    **values: Any,
) -> Iterator[None]:
    """Check the inputs of a command, and show what is loaded while the block imports its workflow.

    Selects the experiment of new runs, if the settings name one.

    Args:
        parts: composed settings of the command.
        modules: libraries that the block imports.
        has_store: the command opens the tracking store.
        is_silent: show no line on a terminal, for example because the output is JSON.
        values: further inputs by the name of their setting or argument.

    Raises:
        UserError: an input is unusable.
    """
    inputs = {name: value for part in parts for name, value in vars(part).items()} | values
    check_inputs(inputs)
    if inputs.get("experiment") is not None:
        select_experiment(inputs["experiment"])
    if has_store:
        check_store()
    with loading(*modules, is_silent=is_silent):
        yield


def check_inputs(values: Values) -> None:
    """Raise UserError if a file, a folder or a name among the values, by setting, is unusable."""
    for name, check in CHECKS.items():
        if values.get(name) is not None:
            check(values)


def check_store() -> None:
    """Raise UserError if the tracking URI names neither a database nor a server.

    A program that has loaded MLflow may have set another URI than the environment.
    """
    if "mlflow" in sys.modules:
        return
    has_runs = any(Path(MLRUNS).glob("[0-9]*/meta.yaml"))
    if uri := os.environ.get(VARIABLE) or (MLRUNS if has_runs else ""):
        check_uri(uri)


def check_bundle(folder: Path) -> None:
    """Raise UserError if the folder of a bundle exists."""
    if folder.exists():
        raise UserError(
            f"{folder} exists already. Move it, or choose another --package or --output."
        )


def _check_data(values: Values) -> None:
    source = find_source(DataSettings(data=values["data"]))
    if values.get("labels") is None:
        for folder in source.parts.values():
            if len(subfolders(folder)) <= MAX_LISTED:
                read_layout(folder)


def _check_dataset(values: Values) -> None:
    name, data_dir = values["dataset"], values.get("data_dir")
    if values.get("data") is None and name != EMBEDDED and data_dir is not None:
        find_source(DataSettings(dataset=name, data_dir=data_dir))


def _check_labels(values: Values) -> None:
    from eyevsai.data.image_folder import find_table

    if values.get("data") is not None:
        find_table(expand(values["labels"]), expand(values["data"]))


def _check_weights(values: Values) -> None:
    from eyevsai.models.transfer.settings import check_weights

    check_weights(values["weights"])


def _check_references(values: Values) -> None:
    """Raise UserError if the text for a trained or registered model is malformed."""
    for text in values["references"]:
        parse_model(text)


def _check_trained(values: Values) -> None:
    check_trained(parse_model(values["model_uri"]))


def _check_policy(values: Values) -> None:
    read_policy(values["policy"], dataset="")


def _check_class_map(values: Values) -> None:
    read_class_map(values["class_map"])


def _check_space(values: Values) -> None:
    read_space(values["space"])


def _check_model(values: Values) -> None:
    """Raise UserError if a model is named by a malformed URI, or by a path that does not exist."""
    model = values["loaded_model"]
    if parse_model(model).is_path and not (is_dir(expand(model)) or is_file(expand(model))):
        raise UserError(f"There is no model {model}. Use {MODEL_FORMS}.")


def _check_output(values: Values) -> None:
    _check_folder(values["output"], "--output")


def _check_state_dir(values: Values) -> None:
    _check_folder(values["state_dir"], "--state-dir")


def _check_folder(path: str | Path, option: str) -> None:
    """Raise UserError if a folder exists and is not writable, or if it cannot be created."""
    folder = expand(path).absolute()
    existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not existing.is_dir():
        code = errno.EEXIST if existing == folder else errno.ENOTDIR
    elif not os.access(existing, os.W_OK | os.X_OK):
        code = errno.EACCES
    else:
        return
    raise write_error(folder, OSError(code, os.strerror(code)), f"Choose another {option}.")


def _check_page(values: Values) -> None:
    """Raise UserError if a page cannot be written, because its folder is missing, for example."""
    page = expand(values["page"])
    code = errno.EISDIR if page.is_dir() else 0
    if not page.parent.is_dir():
        code = errno.ENOTDIR if page.parent.exists() else errno.ENOENT
    elif not os.access(page if page.exists() else page.parent, os.W_OK):
        code = errno.EACCES
    if code:
        raise write_error(page, OSError(code, os.strerror(code)), "Choose another --page.")


def _check_legacy_file(values: Values) -> None:
    from eyevsai.workflows.registry.legacy_file import read_models

    read_models(values["legacy_file"])


def _check_time(values: Values) -> None:
    from eyevsai.workflows.registry.times import parse_time

    parse_time(values["at"])


def _check_package(values: Values) -> None:
    output = expand(values.get("output") or ".").absolute()
    check_bundle(output / values["package"])


# checks by the name of the setting, or of the argument of `starting`
CHECKS: Mapping[str, Callable[[Values], None]] = {
    "class_map": _check_class_map,
    "page": _check_page,
    "data": _check_data,
    "dataset": _check_dataset,
    "labels": _check_labels,
    "weights": _check_weights,
    "references": _check_references,
    "model_uri": _check_trained,
    "loaded_model": _check_model,
    "policy": _check_policy,
    "space": _check_space,
    "output": _check_output,
    "state_dir": _check_state_dir,
    "legacy_file": _check_legacy_file,
    "at": _check_time,
    "package": _check_package,
}

"""Catalog of datasets: their names, descriptions, presets and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose
from eyevsai.core.paths import expand, is_dir
from eyevsai.core.shell import quote
from eyevsai.data.folder_layout import LAYOUT
from eyevsai.data.settings import DataSettings

EMBEDDED = "digits"
UNIONS = {"combined": ("pets", "street_foods", "instruments"), "combined_all": None}

DESCRIPTIONS = {
    "digits": "1,797 handwritten digits of 8 x 8 pixels from scikit-learn; always available.",
    "combined": "Union of pets, street_foods and instruments in the data directory.",
    "combined_all": "Union of all datasets in the data directory.",
    "pets": "Breeds of cats and dogs (Oxford-IIIT Pet).",
    "vegetables": "Fifteen vegetables.",
    "street_foods": "Popular street foods of the world.",
    "instruments": "Musical instruments.",
}

# Defaults for one dataset. They override a model family's defaults; options override them.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "digits": {
        "image_size": 32,
        "epochs": 30,
        "patience": 8,
        "flip": False,
        "rotation": 10.0,
        "crop_scale": 0.7,
        "random_erasing": 0.0,
    }
}


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset's name and its folders, by part; a union has several parts.

    Attributes:
        name: name of the dataset.
        parts: folder of each part, by the part's name.
        labels: path of a label table; None if class folders give the labels.
        groups: regular expression or table column that identifies images of one group, as in
            `DataSettings`; None without groups.
    """

    name: str
    parts: Mapping[str, Path] = field(default_factory=dict)
    labels: str | None = None
    groups: str | None = None

    @property
    def location(self) -> str:
        """Folders as text for messages, separated by commas."""
        return ", ".join(str(folder) for folder in self.parts.values())


def list_datasets(root: Path) -> dict[str, str]:
    """Return the descriptions of all available datasets by name.

    These are the embedded dataset, the folders in `root`, and the unions whose parts all exist.
    """
    folders = list(_list_folders(root))
    unions = [
        name for name, parts in UNIONS.items() if folders and set(parts or ()) <= set(folders)
    ]
    return {
        name: DESCRIPTIONS.get(name, f"Folder {root / name}.")
        for name in [EMBEDDED, *folders, *unions]
    }


def find_source(settings: DataSettings) -> DatasetFolder:
    """Return the folders of the dataset that `settings` select.

    The embedded dataset is written to the cache folder on first use. A single part is named like
    the dataset, by `dataset_name` if set.

    Raises:
        UserError: the dataset or folder does not exist (the message suggests the nearest name), a
            part of a union is missing, or `labels` is set for a union.
    """
    source = _find_folders(settings)
    if settings.labels is not None and len(source.parts) > 1:
        raise UserError(
            f"--labels cannot be used with {source.name}, a union of {len(source.parts)} "
            "datasets. Select one folder with --data."
        )
    name = settings.dataset_name or source.name
    folders = list(source.parts.values())
    return DatasetFolder(
        name,
        {name: folders[0]} if len(folders) == 1 else source.parts,
        settings.labels,
        settings.groups,
    )


def _find_folders(settings: DataSettings) -> DatasetFolder:
    if settings.data is not None:
        folder = expand(settings.data)
        if not folder.exists():
            place = "" if folder.is_absolute() else f" in {Path.cwd()}"
            hint = (
                f" With train, tune and data check, --dataset {settings.data} is a known dataset."
                if settings.data in DESCRIPTIONS
                else ""
            )
            raise UserError(f"There is no folder {folder}{place}. {LAYOUT}.{hint}")
        if not folder.is_dir():
            raise UserError(f"{folder} is a file. {LAYOUT}.")
        return DatasetFolder(folder.resolve().name, {folder.resolve().name: folder})
    if settings.dataset == EMBEDDED:
        from eyevsai.data.digits import write_digits

        return DatasetFolder(EMBEDDED, {EMBEDDED: write_digits(expand(settings.cache_dir))})
    return _find_by_name(settings.dataset, expand(settings.data_dir).absolute())


def _find_by_name(name: str, root: Path) -> DatasetFolder:
    folders = _list_folders(root)
    if name in folders:
        return DatasetFolder(name, {name: folders[name]})
    if name not in UNIONS:
        try:
            choose("dataset", name, [EMBEDDED, *folders, *(UNIONS if folders else ())])
        except UserError as error:
            hint = f" Download it: `eyevsai data download {name}`." if name in DESCRIPTIONS else ""
            if is_dir(expand(name)):
                hint = f" For the folder: --data {quote(name)}."
            raise UserError(
                f"{error} Datasets are the folders in {root}; set another with --data-dir or "
                f"EYEVSAI_DATA.{hint}"
            ) from None
    parts = UNIONS[name] or tuple(folders)
    missing = [part for part in parts if part not in folders]
    if missing or not parts:
        requirement = ", ".join(missing) or "at least one dataset"
        raise UserError(
            f"{name} needs {requirement} in {root}. Set --data-dir or EYEVSAI_DATA, or run "
            f"`eyevsai data download {name}`."
        )
    return DatasetFolder(name, {part: folders[part] for part in parts})


def _list_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        return {}
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    return {
        entry.name: entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")
    }

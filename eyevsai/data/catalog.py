"""Which datasets there are, and which folders one is read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose
from eyevsai.data.folder_layout import LAYOUT
from eyevsai.data.settings import DataSettings

EMBEDDED = "digits"
UNIONS = {"combined": ("pets", "street_foods", "instruments"), "combined_all": None}

DESCRIPTIONS = {
    "digits": "1,797 handwritten digits of 8 x 8 pixels from scikit-learn; always there.",
    "combined": "Union of pets, street_foods and instruments in the data directory.",
    "combined_all": "Union of all datasets in the data directory.",
    "pets": "Breeds of cats and dogs (Oxford-IIIT Pet).",
    "vegetables": "Fifteen vegetables.",
    "street_foods": "Popular street foods of the world.",
    "instruments": "Musical instruments.",
}

# What suits one dataset better than a family's default; a flag still goes before it.
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
    """A dataset's name and the folders it is composed of when read, by the name of each part.

    `labels` is the path of a label table, `groups` says which images belong together: see
    `DataSettings`.
    """

    name: str
    parts: Mapping[str, Path] = field(default_factory=dict)
    labels: str | None = None
    groups: str | None = None

    @property
    def location(self) -> str:
        """The folders, as people are told of them."""
        return ", ".join(str(folder) for folder in self.parts.values())


def list_datasets(root: Path) -> dict[str, str]:
    """Each dataset's name and description: the embedded one, the folders under `root`, their
    unions.
    """
    folders = list(_folders(root))
    unions = [
        name for name, parts in UNIONS.items() if folders and set(parts or ()) <= set(folders)
    ]
    return {
        name: DESCRIPTIONS.get(name, f"Folder {root / name}.")
        for name in [EMBEDDED, *folders, *unions]
    }


def find_source(settings: DataSettings) -> DatasetFolder:
    """The folders that `settings` name; the embedded dataset is written on first use.

    Raises:
        UserError: no such dataset or folder, naming the nearest.
    """
    found = _find_folders(settings)
    if settings.labels is not None and len(found.parts) > 1:
        raise UserError(
            f"{found.name} is a union of {len(found.parts)} datasets, which --labels cannot "
            "name. Give one folder with --data."
        )
    name = settings.dataset_name or found.name
    folders = list(found.parts.values())
    return DatasetFolder(
        name,
        {name: folders[0]} if len(folders) == 1 else found.parts,
        settings.labels,
        settings.groups,
    )


def _find_folders(settings: DataSettings) -> DatasetFolder:
    if settings.data is not None:
        folder = Path(settings.data).expanduser()
        if not folder.exists():
            raise UserError(f"There is no folder {folder}. {LAYOUT}.")
        if not folder.is_dir():
            raise UserError(f"{folder} is a file. {LAYOUT}.")
        return DatasetFolder(folder.resolve().name, {folder.resolve().name: folder})
    if settings.dataset == EMBEDDED:
        from eyevsai.data.digits import write_digits

        return DatasetFolder(
            EMBEDDED, {EMBEDDED: write_digits(Path(settings.cache_dir).expanduser())}
        )
    return _source_under_root(settings.dataset, Path(settings.data_dir).expanduser())


def _source_under_root(name: str, root: Path) -> DatasetFolder:
    folders = _folders(root)
    if name in folders:
        return DatasetFolder(name, {name: folders[name]})
    if name not in UNIONS:
        try:
            choose("dataset", name, [EMBEDDED, *folders, *(UNIONS if folders else ())])
        except UserError as error:
            hint = f" Get it: `eyevsai data download {name}`." if name in DESCRIPTIONS else ""
            raise UserError(
                f"{error} Datasets are the folders under {root}: set --data-dir or "
                f"EYEVSAI_DATA.{hint}"
            ) from None
    wanted = UNIONS[name] or tuple(folders)
    missing = [part for part in wanted if part not in folders]
    if missing or not wanted:
        lacking = ", ".join(missing) or "any dataset"
        raise UserError(
            f"{name} needs {lacking} under {root}: set --data-dir or EYEVSAI_DATA, or run "
            f"`eyevsai data download {name}`."
        )
    return DatasetFolder(name, {part: folders[part] for part in wanted})


def _folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        return {}
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    return {
        entry.name: entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")
    }

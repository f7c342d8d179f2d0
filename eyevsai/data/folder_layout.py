"""Layouts of a dataset: a folder for each class, or a folder for each split with the classes in
it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.data.files import OTHER_SUFFIXES, is_image, is_saved_page, scan, subfolders, walk
from eyevsai.data.unused_files import UnusedFile, unused_pages

TRAIN, VALID, TEST = "train", "valid", "test"
SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "trainval": TRAIN,
    "val": VALID,
    "valid": VALID,
    "validation": VALID,
    "dev": VALID,
    "eval": VALID,
    "test": TEST,
    "testing": TEST,
    "holdout": TEST,
}
IMAGES = frozenset({"images", "image", "imgs", "img", "jpegimages", "pictures", "photos"})
ANNOTATIONS = frozenset(
    {
        "annotations",
        "annotation",
        "annots",
        "annot",
        "masks",
        "mask",
        "labels",
        "label",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "trimaps",
        "ground_truth",
        "groundtruth",
        "gt",
        "xml",
        "xmls",
        "bbox",
        "bboxes",
        "json",
        "meta",
        "metadata",
        "imagesets",
        "attributes",
        "parts",
    }
)
FILLERS = IMAGES | {"set", "data", "dataset", "split", "folder"}
LAYOUT = (
    "A dataset is a folder with a folder of images per class, or with the folders train, valid "
    "and test that have these, or a folder of images with --labels FILE.csv"
)
SHOWN = 3


@dataclass(frozen=True)
class ClassFolder:
    """The folder of a class. `split` is None where the layout gives none."""

    split: str | None
    label: str
    path: Path


@dataclass
class Layout:
    """How a folder is read: its classes, what of it is not read, and what to tell about that."""

    classes: list[ClassFolder] = field(default_factory=list)
    unused: list[UnusedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_layout(root: Path) -> Layout:
    """Recognise the layout of a dataset.

    Raises:
        UserError: it has none that is known, or one that can be read in two ways.
    """
    layout, folder = Layout(), root
    while (inner := _wrapped(folder)) is not None:
        layout.unused += _files_in(folder, root)
        layout.notes.append(
            f"{inner.name}/ is the only folder in {folder.name}/: its folders are read"
        )
        folder = inner
    folders = subfolders(folder)
    layout.unused += _files_in(folder, root)
    splits = _find_splits(folder, folders)
    if splits is None:
        folders = _without_annotations(layout, folder, folders)
        splits = _find_splits(folder, folders) if set(folders) != set(subfolders(folder)) else None
    if splits is None:
        layout.classes = [
            ClassFolder(None, normalize(name), path) for name, path in folders.items()
        ]
        _look_inside(layout, folder)
    else:
        _read_splits(layout, folder, splits, folders)
    labels = {each.label for each in layout.classes}
    check_distinct_names(sorted(labels), root)
    flat = all(
        each.path.name.casefold() in IMAGES and not subfolders(each.path) for each in layout.classes
    )
    if not labels or (len(labels) == 1 and (flat or list_tables(folder))):
        _reject_flat_folder(root, folder)
    return layout


def normalize(name: str) -> str:
    """Return the name of a class: in NFC, so that both spellings of an umlaut are one, without
    spaces around it.
    """
    return unicodedata.normalize("NFC", name).strip()


def split_of(name: str) -> str | None:
    """Return the split that a folder is called like, such as `Training`, `test_images` or
    `val2017`; else None.
    """
    words = _words(name)
    return SPLITS.get(words[0]) if len(words) == 1 else None


def _words(name: str) -> list[str]:
    """Return the words of a name, without numbers and words such as `images`."""
    words = re.split(r"[\W_]+", re.sub(r"\d+$", "", name.casefold()))
    return [word for word in words if word and word not in FILLERS and not word.isdigit()]


def _find_named_alike(names: Iterable[str]) -> dict[str, str]:
    """Return the splits of folders called alike but for the split, such as `seg_train` and
    `seg_test`.
    """
    by_rest: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = _words(name)
        splits = [word for word in words if word in SPLITS]
        if len(splits) == 1:
            rest = tuple(word for word in words if word not in SPLITS)
            by_rest.setdefault(rest, {})[name] = SPLITS[splits[0]]
    alike = (
        found
        for found in by_rest.values()
        if TRAIN in found.values() and len(set(found.values())) > 1
    )
    return next(alike, {})


def list_tables(folder: Path) -> list[str]:
    """Return the names of tables in a folder that may have labels."""
    return [name for name in scan(folder) if Path(name).suffix.lower() in (".csv", ".tsv")]


def _wrapped(folder: Path) -> Path | None:
    """Return the only folder in a folder, if it holds folders and is neither a split nor a
    class.
    """
    inner = _only_folder(folder)
    return None if inner is None or split_of(inner.name) or _has_images(folder) else inner


def _only_folder(folder: Path) -> Path | None:
    """Return the only folder in a folder, if it holds folders and no images."""
    folders = list(subfolders(folder).values())
    return (
        folders[0]
        if len(folders) == 1 and subfolders(folders[0]) and not _has_images(folders[0])
        else None
    )


def _look_inside(layout: Layout, folder: Path) -> None:
    """Note folders of classes that hold the same folders, which may be splits.

    Raises:
        UserError: they hold splits.
    """
    inside = {each.label: sorted(subfolders(each.path)) for each in layout.classes}
    names = [
        label for label, inner in inside.items() if len(inner) > 1 and all(map(split_of, inner))
    ]
    if names:
        splits = inside[names[0]]
        raise UserError(
            f"{folder / names[0]} has {', '.join(f'{name}/' for name in splits)}: the splits are "
            f"inside of the classes. Put the classes into the splits ({splits[0]}/{names[0]}/), "
            "or name them in a table with --labels."
        )
    by_content: dict[tuple[str, ...], list[str]] = {}
    for label, inner in inside.items():
        if len(inner) > 1:
            by_content.setdefault(tuple(inner), []).append(label)
    for content, labels in by_content.items():
        if len(labels) > 1:
            first, shown = (
                ", ".join(f"{name}/" for name in labels[:SHOWN]),
                ", ".join(content[:SHOWN]),
            )
            layout.notes.append(
                f"{first} hold the same folders ({shown}) and are read as one class each: if "
                "they are splits, name them train, valid and test"
            )


def _find_splits(folder: Path, folders: dict[str, Path]) -> dict[str, str] | None:
    """Return the split that each folder is, by its name; None where the folders are classes.

    Raises:
        UserError: two folders are one split, or the folders of splits have no classes.
    """
    found = {name: split for name in folders if (split := split_of(name))} or _find_named_alike(
        folders
    )
    others = [name for name in folders if name not in found]
    with_classes = [name for name in found if subfolders(folders[name])]
    if not found or (TRAIN not in found.values() and others):
        return None
    if not with_classes:
        only_one_class = (
            len(found) == 1
            and others
            and not {name.casefold() for name in others} <= ANNOTATIONS | IMAGES
        )
        if only_one_class:  # such as train beside bus and car
            return None
        _reject_flat_folder(folder, folder)
    if TRAIN in found.values() and not any(found[name] == TRAIN for name in with_classes):
        if others:
            return None
        _reject_flat_folder(folder, folder)
    for split in set(found.values()):
        twins = [name for name in with_classes if found[name] == split]
        if len(twins) > 1:
            raise UserError(
                f"{folder} has {' and '.join(f'{name}/' for name in twins)}, which are both the "
                f"{split} split. Put their images into one of them, or move one away."
            )
    return found


def _read_splits(
    layout: Layout, folder: Path, splits: dict[str, str], folders: dict[str, Path]
) -> None:
    for name, split in splits.items():
        path = folders[name]
        while (inner := _only_folder(path)) is not None:  # such as training_set/training_set
            layout.unused += _files_in(path, folder)
            path = inner
        classes = _without_annotations(layout, path, subfolders(path))
        layout.unused += _files_in(path, folder)
        layout.classes += [
            ClassFolder(split, normalize(label), path) for label, path in classes.items()
        ]
    known = {each.label.casefold() for each in layout.classes if each.split == TRAIN}
    for name, split in splits.items():
        own = [each for each in layout.classes if each.split == split]
        # images without labels
        if known and split != TRAIN and len(own) == 1 and own[0].label.casefold() not in known:
            layout.classes.remove(own[0])
            layout.unused += [
                UnusedFile(file, f"in {name}/, without a folder of a class of train")
                for file, _ in walk(own[0].path)
            ]
    for name, path in folders.items():
        if name in splits:
            continue
        shared = sorted(label for label in subfolders(path) if normalize(label).casefold() in known)
        if shared:
            raise UserError(
                f"{path} is no split, but has folders of classes of the train split: "
                f"{shared[0]}/. Name it like a split (train, valid, test), or move it away."
            )
        layout.unused += [
            UnusedFile(file, f"in {name}/, which is no split") for file, _ in walk(path)
        ]


def _without_annotations(layout: Layout, folder: Path, folders: dict[str, Path]) -> dict[str, Path]:
    """Return the folders of classes: those in `images/`, if the others are of annotations.

    Raises:
        UserError: the folder has images and annotations, and no classes.
    """
    pictures = [name for name in folders if name.casefold() in IMAGES]
    others = [name for name in folders if name not in pictures]
    if not pictures or not others or not {name.casefold() for name in others} <= ANNOTATIONS:
        return folders
    inner = subfolders(folders[pictures[0]])
    if len(pictures) > 1 or not inner or _has_images(folders[pictures[0]]):
        names = ", ".join(f"{name}/" for name in folders)
        raise UserError(
            f"{folder} has {names}: images and their annotations, not a folder for each class. "
            f"{LAYOUT}.{_hint(folder)}"
        )
    for name in others:
        layout.unused += [
            UnusedFile(file, f"in {name}/, which has annotations")
            for file, _ in walk(folders[name])
        ]
    layout.unused += _files_in(folders[pictures[0]], folder)
    layout.notes.append(
        f"{pictures[0]}/ holds the classes, {', '.join(f'{name}/' for name in others)} is not read"
    )
    return inner


def _has_images(folder: Path) -> bool:
    return any(entry.is_file() and is_image(Path(entry.path)) for entry in scan(folder).values())


def _files_in(folder: Path, root: Path) -> list[UnusedFile]:
    """Return the files directly in a folder, outside of the folders of classes, without those of
    other kinds (.csv).
    """
    where = "in the root" if folder == root else f"in {folder.relative_to(root).as_posix()}/"
    entries = scan(folder).values()
    paths = [Path(entry.path) for entry in entries if entry.is_file()]
    pages = [Path(entry.path) for entry in entries if is_saved_page(entry.name) and entry.is_dir()]
    loose = [path for path in paths if path.suffix.lower() not in OTHER_SUFFIXES]
    return [
        UnusedFile(path, f"{where}, outside of the folders of classes") for path in loose
    ] + unused_pages(pages)


def check_distinct_names(labels: Iterable[str], where: Path) -> None:
    """Refuse classes that differ in capitals only.

    Raises:
        UserError: naming two of them.
    """
    spelt: dict[str, str] = {}
    for label in labels:
        other = spelt.setdefault(label.casefold(), label)
        if other != label:
            raise UserError(
                f"{where} has the classes {other} and {label}, which differ in capitals only. "
                "Write them alike."
            )


def _reject_flat_folder(root: Path, folder: Path) -> None:
    """Raises UserError for images that lie in no folder of a class."""
    pictures = sum(is_image(path) for path, _ in walk(folder))
    if not pictures:
        raise UserError(f"There are no images in {root}. {LAYOUT}.{_hint(folder)}")
    flat = [f"{name}/" for name, path in subfolders(folder).items() if _has_images(path)]
    where = f"in {', '.join(flat)}" if flat else "in it"
    raise UserError(
        f"{folder} has {pictures} images {where}, but no folder for each class. "
        f"{LAYOUT}.{_hint(folder)}"
    )


def _hint(folder: Path) -> str:
    tables = [name for place in (folder, folder.parent) for name in list_tables(place)]
    return f" There is a table: --labels {tables[0]}" if tables else ""

"""Dataset layouts: a folder for each class, or a folder for each split with class folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.core.shell import quote
from eyevsai.data.files import OTHER_SUFFIXES, is_image, is_saved_page, scan, subfolders, walk
from eyevsai.data.label_columns import is_label_table
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
    "and test that contain such folders, or, "
    "for train, tune and data check, a folder of images with --labels FILE.csv"
)
SHOWN = 3


@dataclass(frozen=True)
class ClassFolder:
    """Folder of a class. `split` is None if the layout has no splits."""

    split: str | None
    label: str
    path: Path


@dataclass
class Layout:
    """Layout of a dataset folder: class folders, unused files, and notes for the user."""

    classes: list[ClassFolder] = field(default_factory=list)
    unused: list[UnusedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_layout(root: Path) -> Layout:
    """Return the layout of the dataset in folder `root`.

    Raises:
        UserError: the layout is unknown or ambiguous, or a folder cannot be read.
    """
    layout, folder = Layout(), root
    while (inner := _find_wrapped(folder)) is not None:
        layout.unused += _list_unused(folder, root)
        layout.notes.append(
            f"{inner.name}/, the only folder in {folder.name}/, is read as the dataset"
        )
        folder = inner
    folders = subfolders(folder)
    layout.unused += _list_unused(folder, root)
    splits = _find_splits(folder, folders)
    if splits is None:
        folders = _without_annotations(layout, folder, folders)
        splits = _find_splits(folder, folders) if set(folders) != set(subfolders(folder)) else None
    if splits is None:
        layout.classes = [
            ClassFolder(None, normalize(name), path) for name, path in folders.items()
        ]
        _check_nested_folders(layout, folder)
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
    """Return a class name in Unicode NFC, without surrounding whitespace.

    NFC makes the composed and the decomposed form of a letter such as `ü` equal.
    """
    return unicodedata.normalize("NFC", name).strip()


def parse_split(name: str) -> str | None:
    """Return the split that a folder's name denotes (`Training`, `val2017`), or None."""
    words = _words(name)
    return SPLITS.get(words[0]) if len(words) == 1 else None


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without numbers and the words of `FILLERS`."""
    words = re.split(r"[\W_]+", re.sub(r"\d+$", "", name.casefold()))
    return [word for word in words if word and word not in FILLERS and not word.isdigit()]


def _find_affixed_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each folder whose names differ in a split's name only.

    An example is `seg_train` and `seg_test`. The result is empty without a train split and at least
    one other split.
    """
    by_rest: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = _words(name)
        splits = [word for word in words if word in SPLITS]
        if len(splits) == 1:
            rest = tuple(word for word in words if word not in SPLITS)
            by_rest.setdefault(rest, {})[name] = SPLITS[splits[0]]
    matches = (
        splits_by_name
        for splits_by_name in by_rest.values()
        if TRAIN in splits_by_name.values() and len(set(splits_by_name.values())) > 1
    )
    return next(matches, {})


def list_tables(folder: Path) -> list[str]:
    """Return the names of the CSV and TSV files in a folder, sorted."""
    return [name for name in scan(folder) if Path(name).suffix.lower() in (".csv", ".tsv")]


def _find_wrapped(folder: Path) -> Path | None:
    """Return the only subfolder of a folder if it contains the dataset, else None.

    It has subfolders, no split's name, and neither it nor `folder` contains images.
    """
    inner = _only_folder(folder)
    return None if inner is None or parse_split(inner.name) or _has_images(folder) else inner


def _only_folder(folder: Path) -> Path | None:
    """Return the only subfolder of a folder if it has subfolders and no images, else None."""
    folders = list(subfolders(folder).values())
    return (
        folders[0]
        if len(folders) == 1 and subfolders(folders[0]) and not _has_images(folders[0])
        else None
    )


def _check_nested_folders(layout: Layout, folder: Path) -> None:
    """Add a note on class folders with the same subfolders, as they may be splits.

    Raises:
        UserError: all subfolders of a class folder are splits.
    """
    inside = {each.label: sorted(subfolders(each.path)) for each in layout.classes}
    names = [
        label for label, inner in inside.items() if len(inner) > 1 and all(map(parse_split, inner))
    ]
    if names:
        splits = inside[names[0]]
        raise UserError(
            f"{folder / names[0]} has {', '.join(f'{name}/' for name in splits)}: the splits are "
            f"inside the classes. Move the classes into the splits ({splits[0]}/{names[0]}/), "
            "or list the images in a table with --labels."
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
                f"{first} contain the same folders ({shown}), and each is read as one class: if "
                "they are splits, rename them to train, valid and test"
            )


def _find_splits(folder: Path, folders: dict[str, Path]) -> dict[str, str] | None:
    """Return the split of each folder by its name; None if the folders are classes.

    Folders of neither a split nor a class are absent.

    Raises:
        UserError: two folders are the same split, or the splits have no class folders.
    """
    splits = {name: split for name in folders if (split := parse_split(name))}
    splits = splits or _find_affixed_splits(folders)
    others = [name for name in folders if name not in splits]
    with_classes = [name for name in splits if subfolders(folders[name])]
    if not splits or (TRAIN not in splits.values() and others):
        return None
    if not with_classes:
        is_class = (
            len(splits) == 1
            and others
            and not {name.casefold() for name in others} <= ANNOTATIONS | IMAGES
        )
        if is_class:  # such as the class train beside the classes bus and car
            return None
        _reject_flat_folder(folder, folder)
    if TRAIN in splits.values() and not any(splits[name] == TRAIN for name in with_classes):
        if others:
            return None
        _reject_flat_folder(folder, folder)
    for split in set(splits.values()):
        same_split = [name for name in with_classes if splits[name] == split]
        if len(same_split) > 1:
            raise UserError(
                f"{folder} has {' and '.join(f'{name}/' for name in same_split)}, which are both "
                f"the {split} split. Merge them, or move one out of the dataset."
            )
    return splits


def _read_splits(
    layout: Layout, folder: Path, splits: dict[str, str], folders: dict[str, Path]
) -> None:
    """Add the class folders of all splits to `layout`, and files outside of them as unused.

    Raises:
        UserError: a folder that is not a split has class folders of the train split.
    """
    for name, split in splits.items():
        path = folders[name]
        while (inner := _only_folder(path)) is not None:  # for example training_set/training_set
            layout.unused += _list_unused(path, folder)
            path = inner
        classes = _without_annotations(layout, path, subfolders(path))
        layout.unused += _list_unused(path, folder)
        layout.classes += [
            ClassFolder(split, normalize(label), path) for label, path in classes.items()
        ]
    train_labels = {each.label.casefold() for each in layout.classes if each.split == TRAIN}
    for name, split in splits.items():
        classes_of_split = [each for each in layout.classes if each.split == split]
        is_unlabeled = (
            train_labels
            and split != TRAIN
            and len(classes_of_split) == 1
            and classes_of_split[0].label.casefold() not in train_labels
        )
        if is_unlabeled:
            layout.classes.remove(classes_of_split[0])
            layout.unused += [
                UnusedFile(file, f"in {name}/, whose only folder is not a class of train")
                for file, _ in walk(classes_of_split[0].path)
            ]
    for name, path in folders.items():
        if name in splits:
            continue
        shared = sorted(
            label for label in subfolders(path) if normalize(label).casefold() in train_labels
        )
        if shared:
            raise UserError(
                f"{path} is not a split, but has class folders of the train split: {shared[0]}/. "
                "Rename it to a split (train, valid, test), or move it out of the dataset."
            )
        layout.unused += [
            UnusedFile(file, f"in {name}/, which is not a split") for file, _ in walk(path)
        ]


def _without_annotations(layout: Layout, folder: Path, folders: dict[str, Path]) -> dict[str, Path]:
    """Return the class folders: those in `images/` if all other folders contain annotations.

    Otherwise return `folders`. Files that are not read are added to `layout.unused`, with a note.

    Raises:
        UserError: the folder has images and annotations, but no class folders.
    """
    image_folders = [name for name in folders if name.casefold() in IMAGES]
    others = [name for name in folders if name not in image_folders]
    if not image_folders or not others or not {name.casefold() for name in others} <= ANNOTATIONS:
        return folders
    image_folder = folders[image_folders[0]]
    inner = subfolders(image_folder)
    if len(image_folders) > 1 or not inner or _has_images(image_folder):
        names = ", ".join(f"{name}/" for name in folders)
        raise UserError(
            f"{folder} has {names}: images and their annotations, but no class folders. "
            f"{LAYOUT}.{_table_hint(folder)}"
        )
    for name in others:
        layout.unused += [
            UnusedFile(file, f"in {name}/, which contains annotations")
            for file, _ in walk(folders[name])
        ]
    layout.unused += _list_unused(image_folder, folder)
    layout.notes.append(
        f"classes are read from {image_folders[0]}/; not read: "
        f"{', '.join(f'{name}/' for name in others)}"
    )
    return inner


def _has_images(folder: Path) -> bool:
    return any(entry.is_file() and is_image(Path(entry.path)) for entry in scan(folder).values())


def _list_unused(folder: Path, root: Path) -> list[UnusedFile]:
    """Return the files of a folder that are outside the class folders.

    Files of other formats (`OTHER_SUFFIXES`, such as .csv) are left out; files of saved web pages
    are included.
    """
    where = "in the root" if folder == root else f"in {folder.relative_to(root).as_posix()}/"
    entries = scan(folder).values()
    paths = [Path(entry.path) for entry in entries if entry.is_file()]
    pages = [Path(entry.path) for entry in entries if is_saved_page(entry.name) and entry.is_dir()]
    loose = [path for path in paths if path.suffix.lower() not in OTHER_SUFFIXES]
    return [
        UnusedFile(path, f"{where}, outside the class folders") for path in loose
    ] + unused_pages(pages)


def check_distinct_names(labels: Iterable[str], source: Path) -> None:
    """Raise UserError if two class names differ only in case; `source` is the path to report."""
    spellings: dict[str, str] = {}
    for label in labels:
        other = spellings.setdefault(label.casefold(), label)
        if other != label:
            raise UserError(
                f"{source} has the classes {other} and {label}, which differ only in case. "
                "Use one spelling."
            )


def _reject_flat_folder(root: Path, folder: Path) -> None:
    """Raise UserError: the folder has no images, or its images are in no class folder."""
    num_images = sum(is_image(path) for path, _ in walk(folder))
    if not num_images:
        raise UserError(f"There are no images in {root}. {LAYOUT}.")
    flat = [f"{name}/" for name, path in subfolders(folder).items() if _has_images(path)]
    where = f"in {', '.join(flat)}" if flat else "in it"
    dataset = _find_dataset_of_class(folder)
    fix = f"If it is one class, use --data {quote(str(dataset))}. " if dataset else ""
    raise UserError(
        f"{folder} has {num_images} images {where}, but no class folders. {fix}"
        f"{LAYOUT}.{_table_hint(folder)}"
    )


def _find_dataset_of_class(folder: Path) -> Path | None:
    """Return the dataset of a class folder: its parent if others there have images, else None.

    It is the parent's parent if the parent is a split.
    """
    folder = folder.resolve()
    siblings = [path for path in subfolders(folder.parent).values() if path != folder]
    if subfolders(folder) or not any(map(_has_images, siblings)):
        return None
    return folder.parent.parent if parse_split(folder.parent.name) else folder.parent


def _table_hint(folder: Path) -> str:
    """Return a sentence on a label table in the folder or its parent; empty if there is none."""
    tables = [
        name if each == folder else each / name
        for each in (folder, folder.parent)
        for name in list_tables(each)
        if is_label_table(each / name)
    ]
    return f" Possible label table: --labels {tables[0]}" if tables else ""

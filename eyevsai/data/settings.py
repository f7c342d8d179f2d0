"""What a person may say about data: where it is, how it is split, how it is augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.settings import (
    CACHE_DIR,
    STATE_DIR,
    Choice,
    Doc,
    Env,
    Parameter,
    Range,
    Search,
    Settings,
)

DEPTHS = ("8", "10", "12", "14", "16", "float1", "float255")  # of images with more than 8 bits
DataRoot = Annotated[
    str, Env("EYEVSAI_DATA"), Doc("Folder in which each folder is a dataset by its name.")
]


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which images, from where, and how they are shared out."""

    PANEL: ClassVar[str] = "Data"

    dataset: Annotated[str, Parameter(), Doc("A dataset by name: see `eyevsai list`.")] = "digits"
    data: Annotated[
        str | None, Parameter(), Doc("Any folder of class folders; goes before --dataset.")
    ] = None
    data_dir: DataRoot = "data"
    dataset_name: Annotated[
        str | None,
        Doc("Name of the dataset in runs and registered models; that of its folder by default."),
    ] = None
    labels: Annotated[
        str | None,
        Doc(
            "CSV table with a path or id, a label and, if wished, a split of each image; "
            "folders are no classes then."
        ),
    ] = None
    groups: Annotated[
        str | None,
        Doc(
            "Keeps images of a video, patient or object in one split: a regular expression over "
            "paths, or a column of --labels."
        ),
    ] = None
    duplicates: Annotated[
        str,
        Choice(("near", "exact", "off")),
        Doc(
            "Copies share a split: near finds resized and recompressed ones, exact only equal "
            "pixels."
        ),
    ] = "near"
    bit_depth: Annotated[
        str,
        Choice(("auto", *DEPTHS)),
        Doc(
            "Range of images with more than 8 bits: of 8 to 16 bits, float up to 1 or 255; auto "
            "asks the data."
        ),
    ] = "auto"
    class_change: Annotated[
        bool,
        Doc(
            "Train although classes were added or removed since the newest version of the "
            "registered model."
        ),
    ] = False
    cache_dir: Annotated[
        str,
        Env("EYEVSAI_CACHE"),
        Doc("Folder for decoded pixels, features and the embedded dataset."),
    ] = CACHE_DIR
    max_bad_fraction: Annotated[
        float,
        Range(0.0, 1.0),
        Doc("Share of files that may be unusable; beyond it nothing is trained."),
    ] = 0.05
    cache_limit_gb: Annotated[
        float,
        Range(0.0, 1e6),
        Doc("Caches beyond this are deleted, those unused for longest first."),
    ] = 20.0
    valid_fraction: Annotated[
        float, Range(0.05, 0.4), Doc("Share of each class that is held out for validation.")
    ] = 0.15
    test_fraction: Annotated[
        float, Range(0.0, 0.4), Doc("Share of each class that is kept for the final test.")
    ] = 0.15
    split_seed: Annotated[
        int, Range(0, 2**31 - 1), Doc("Seed of the split; runs of several --seed share it.")
    ] = 0


@dataclass(frozen=True)
class DownloadSettings(Settings):
    """Which published dataset is fetched, from where, and how it is laid out."""

    PANEL: ClassVar[str] = "Get"

    dataset: Annotated[
        str | None,
        Parameter(),
        Doc("pets, vegetables, street_foods, instruments, or the union combined or combined_all."),
    ] = None
    data_dir: DataRoot = "data"
    splits: Annotated[
        str | None,
        Choice(("published", "none")),
        Doc(
            "published: keep train, valid and test as published; none: a folder per class, to be "
            "split here. By default published where folders have it, as those of vegetables do."
        ),
    ] = None
    archive: Annotated[str | None, Doc("Archive of the images that was downloaded by hand.")] = None
    force: Annotated[bool, Doc("Get it again, and replace what was got before.")] = False
    mirror: Annotated[
        str | None,
        Env("EYEVSAI_MIRROR"),
        Doc("URL of a copy of the archives, each at NAME/FILE: pets/images.tar.gz."),
    ] = None
    state_dir: Annotated[
        str, Env("EYEVSAI_STATE"), Doc("Folder for what the store could not be told yet.")
    ] = STATE_DIR


@dataclass(frozen=True)
class AugmentationSettings(Settings):
    """Random changes to training images; images outside train are never changed."""

    PANEL: ClassVar[str] = "Augmentation"

    crop_scale: Annotated[
        float,
        Range(0.05, 1.0),
        Search(Range(0.3, 1.0)),
        Doc("Smallest share of the image's area that a random crop keeps; 1 crops nothing."),
    ] = 0.5
    crop_ratio: Annotated[
        float, Range(1.0, 3.0), Doc("Largest change of aspect ratio by a random crop.")
    ] = 1.33
    flip: Annotated[bool, Doc("Mirror half of the images left to right.")] = True
    rotation: Annotated[
        float, Range(0, 180), Search(Range(0, 20)), Doc("Largest rotation either way, in degrees.")
    ] = 0.0
    brightness: Annotated[float, Range(0, 1), Doc("Largest relative change of brightness.")] = 0.3
    contrast: Annotated[float, Range(0, 1), Doc("Largest relative change of contrast.")] = 0.3
    saturation: Annotated[float, Range(0, 1), Doc("Largest relative change of saturation.")] = 0.3
    random_erasing: Annotated[
        float,
        Range(0, 1),
        Search(Range(0.0, 0.5)),
        Doc("Share of images of which a random rectangle is blanked (Zhong et al. 2020)."),
    ] = 0.0
    auto_augment: Annotated[
        str,
        Choice(("none", "trivial", "rand")),
        Doc(
            "torchvision's TrivialAugment (Mueller & Hutter 2021) or RandAugment (Cubuk et al. "
            "2020), image by image."
        ),
    ] = "none"

"""Settings of datasets, downloads and augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import (
    CACHE_DIR,
    STATE_DIR,
    Choice,
    Detail,
    Doc,
    Env,
    NotLogged,
    Parameter,
    Range,
    Search,
    Settings,
    StateDir,
)

CROP_MARGIN = 1.15  # room for random crops
DEPTHS = ("8", "10", "12", "14", "16", "float1", "float255")  # of images with more than 8 bits
DataRoot = Annotated[
    str, Env("EYEVSAI_DATA"), NotLogged(), Doc("Folder of the datasets, one subfolder for each.")
]


@dataclass(frozen=True)
class DataSettings(Settings):
    """Dataset: its location, validation and split."""

    PANEL: ClassVar[str] = "Data"

    dataset: Annotated[str, Parameter(), Doc("Name of a dataset; see `eyevsai list`.")] = "digits"
    data: Annotated[
        str | None,
        Parameter(),
        NotLogged(),
        Doc("Any folder of class folders; overrides --dataset."),
    ] = None
    data_dir: DataRoot = "data"
    dataset_name: Annotated[
        str | None,
        Detail(),
        Doc("Name of the dataset in runs and registered models; by default the folder's name."),
    ] = None
    labels: Annotated[
        str | None,
        Detail(),
        Doc(
            "CSV table with a path or id, a label and optionally a split of each image; replaces "
            "class folders."
        ),
    ] = None
    groups: Annotated[
        str | None,
        Detail(),
        Doc(
            "Keep images of a video, patient or object in one split: a regular expression over "
            "paths, or a column of --labels."
        ),
    ] = None
    duplicates: Annotated[
        str,
        Choice(("near", "exact", "off")),
        Detail(),
        Doc(
            "Keep duplicates in one split: near includes resized and recompressed images, exact "
            "only equal pixels."
        ),
    ] = "near"
    bit_depth: Annotated[
        str,
        Choice(("auto", *DEPTHS)),
        Detail(),
        Doc(
            "Range of images with more than 8 bits: 8 to 16 bits, or float up to 1 or 255; auto "
            "detects it."
        ),
    ] = "auto"
    class_change: Annotated[
        bool,
        NotLogged(),
        Doc(
            "Train even if classes were added or removed since the newest version of the "
            "registered model."
        ),
    ] = False
    cache_dir: Annotated[
        str,
        Env("EYEVSAI_CACHE"),
        NotLogged(),
        Doc("Folder for decoded pixels, features and the embedded dataset."),
    ] = CACHE_DIR
    max_bad_fraction: Annotated[
        float,
        Range(0.0, 1.0),
        Detail(),
        Doc("Maximum fraction of unusable files; training is refused above it."),
    ] = 0.05
    cache_limit_gb: Annotated[
        float,
        Range(0.0, 1e6),
        NotLogged(),
        Doc("Maximum size of the cache; the least recently used entries are deleted."),
    ] = 20.0
    valid_fraction: Annotated[
        float, Range(0.05, 0.4), Detail(), Doc("Fraction of each class held out for validation.")
    ] = 0.15
    test_fraction: Annotated[
        float, Range(0.0, 0.4), Detail(), Doc("Fraction of each class held out for the final test.")
    ] = 0.15
    split_seed: Annotated[
        int, Range(0, 2**31 - 1), Doc("Seed of the split; independent of --seed.")
    ] = 0


@dataclass(frozen=True)
class DownloadSettings(Settings):
    """Download of a published dataset: its source and its layout."""

    PANEL: ClassVar[str] = "Download"

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
            "published: keep the published train, valid and test; none: a folder per class, split "
            "in training. Default: published if the archive has split folders, as vegetables has."
        ),
    ] = None
    archive: Annotated[str | None, Doc("Manually downloaded archive of the images.")] = None
    force: Annotated[bool, Doc("Download again, and replace the existing dataset.")] = False
    mirror: Annotated[
        str | None,
        Env("EYEVSAI_MIRROR"),
        Doc("URL of a mirror with each archive at NAME/FILE: pets/images.tar.gz."),
    ] = None
    state_dir: StateDir = STATE_DIR


@dataclass(frozen=True)
class AugmentationSettings(Settings):
    """Random augmentation of training images; images of other splits are never changed."""

    PANEL: ClassVar[str] = "Augmentation"

    crop_scale: Annotated[
        float,
        Range(0.05, 1.0),
        Search(Range(0.3, 1.0)),
        Doc("Minimum area of a random crop, as a fraction of the image; 1 disables cropping."),
    ] = 0.5
    crop_share: Annotated[
        float,
        Range(0, 1),
        Detail(),
        Doc(
            "Share of the training with random crops; later images are as large as those of "
            "predictions, and shifted (Touvron et al. 2019)."
        ),
    ] = 1.0
    crop_ratio: Annotated[
        float,
        Range(1.0, 3.0),
        Detail(),
        Doc("Maximum change of the aspect ratio by a random crop."),
    ] = 1.33
    translate: Annotated[
        float,
        Range(0, 0.5),
        Detail(),
        Doc(
            "Maximum shift of images without a random crop in either direction, as a share of the "
            "short side; pixels beyond the border repeat it."
        ),
    ] = 0.0
    flip: Annotated[
        bool,
        Doc(
            "Flip half of the images horizontally, and the other half in the next epoch; of cached "
            "features, a random half."
        ),
    ] = True
    rotation: Annotated[
        float,
        Range(0, 180),
        Search(Range(0, 20)),
        Doc("Maximum rotation in either direction, in degrees."),
    ] = 0.0
    brightness: Annotated[
        float, Range(0, 1), Detail(), Doc("Maximum relative change of brightness.")
    ] = 0.3
    contrast: Annotated[
        float, Range(0, 1), Detail(), Doc("Maximum relative change of contrast.")
    ] = 0.3
    saturation: Annotated[
        float, Range(0, 1), Detail(), Doc("Maximum relative change of saturation.")
    ] = 0.3
    noise: Annotated[
        float,
        Range(0, 0.5),
        Detail(),
        Doc(
            "Maximum standard deviation of Gaussian noise, as a share of full scale (Rusak et al. "
            "2020)."
        ),
    ] = 0.0
    random_erasing: Annotated[
        float,
        Range(0, 1),
        Search(Range(0.0, 0.5)),
        Doc("Fraction of images in which a random rectangle is erased (Zhong et al. 2020)."),
    ] = 0.0
    auto_augment: Annotated[
        str,
        Choice(("none", "trivial", "rand")),
        Detail(),
        Doc(
            "torchvision's TrivialAugment (Mueller & Hutter 2021) or RandAugment (Cubuk et al. "
            "2020), applied to each image."
        ),
    ] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_given = self.translate not in (0, type(self).translate)
        if is_given and self.crop_scale < 1 and self.crop_share == 1:
            raise UserError(
                f"--translate {self.translate:g} shifts images without a random crop, but "
                f"--crop-scale {self.crop_scale:g} crops all of them. Add --crop-share 0.5 or "
                "--crop-scale 1, or omit --translate."
            )

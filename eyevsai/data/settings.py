"""What a person may say about data: where it is, how it is split, how it is augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.settings import CACHE_ROOT, Choice, Doc, Env, Parameter, Range, Search, Settings


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which images, from where, and how they are shared out."""

    PANEL: ClassVar[str] = "Data"

    dataset: Annotated[str, Parameter(), Doc("A dataset by name: see `eyevsai list`.")] = "digits"
    data: Annotated[str | None, Parameter(), Doc("Any folder of class folders; goes before --dataset.")] = None
    data_root: Annotated[str, Env("EYEVSAI_DATA"), Doc("Folder in which each folder is a dataset by its name.")] = (
        "data"
    )
    cache_root: Annotated[
        str, Env("EYEVSAI_CACHE"), Doc("Folder for decoded pixels, features and the embedded dataset.")
    ] = CACHE_ROOT
    max_bad_fraction: Annotated[
        float, Range(0.0, 1.0), Doc("Share of files that may be unusable; beyond it nothing is trained.")
    ] = 0.05
    cache_limit_gb: Annotated[
        float, Range(0.0, 1e6), Doc("Caches beyond this are deleted, those unused for longest first.")
    ] = 20.0
    valid_fraction: Annotated[float, Range(0.05, 0.4), Doc("Share of each class that is held out for validation.")] = (
        0.15
    )
    test_fraction: Annotated[float, Range(0.0, 0.4), Doc("Share of each class that is kept for the final test.")] = 0.15


@dataclass(frozen=True)
class AugmentationSettings(Settings):
    """Random changes to training images; images outside train are never changed."""

    PANEL: ClassVar[str] = "Augmentation"

    crop_scale: Annotated[
        float, Range(0.05, 1.0), Search(Range(0.3, 1.0)),
        Doc("Smallest share of the image's area that a random crop keeps; 1 crops nothing."),
    ] = 0.5  # fmt: skip
    crop_ratio: Annotated[float, Range(1.0, 3.0), Doc("Largest change of aspect ratio by a random crop.")] = 1.33
    flip: Annotated[bool, Doc("Mirror half of the images left to right.")] = True
    rotation: Annotated[float, Range(0, 180), Search(Range(0, 20)), Doc("Largest rotation either way, in degrees.")] = (
        0.0
    )
    brightness: Annotated[float, Range(0, 1), Doc("Largest relative change of brightness.")] = 0.3
    contrast: Annotated[float, Range(0, 1), Doc("Largest relative change of contrast.")] = 0.3
    saturation: Annotated[float, Range(0, 1), Doc("Largest relative change of saturation.")] = 0.3
    erasing: Annotated[
        float, Range(0, 1), Search(Range(0.0, 0.5)),
        Doc("Share of images of which a random rectangle is blanked (Zhong et al. 2020)."),
    ] = 0.0  # fmt: skip
    policy: Annotated[
        str, Choice(("none", "trivial", "rand")),
        Doc("torchvision's TrivialAugment (Mueller & Hutter 2021) or RandAugment (Cubuk et al. 2020), image by image."),
    ] = "none"  # fmt: skip

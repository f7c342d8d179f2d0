"""Sources of the datasets of `eyevsai data download`: archives, checksums, numbers of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eyevsai.data.catalog import UNIONS

OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
KAGGLE = "https://www.kaggle.com/datasets"


@dataclass(frozen=True)
class Archive:
    """Archive of a publisher. One on Kaggle has a handle; kagglehub provides its URL and MD5."""

    file: str  # name when saved by a browser; a mirror has it at NAME/file
    page: str  # URL for a manual download
    md5: str | None = None
    handle: str | None = None


@dataclass(frozen=True)
class DatasetSource:
    """Published dataset."""

    name: str
    images: Archive
    num_classes: int  # as stated by the publisher
    # lists of the official split, if `images` has no split folders
    splits: Archive | None = None


def _kaggle_source(name: str, handle: str, num_classes: int) -> DatasetSource:
    return DatasetSource(
        name, Archive("archive.zip", f"{KAGGLE}/{handle}", handle=handle), num_classes
    )


SOURCES: Mapping[str, DatasetSource] = {
    "pets": DatasetSource(  # Parkhi et al. 2012, CC BY-SA 4.0; the checksums are torchvision's
        "pets",
        Archive("images.tar.gz", f"{OXFORD}/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        37,
        Archive(
            "annotations.tar.gz", f"{OXFORD}/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"
        ),
    ),
    "vegetables": _kaggle_source("vegetables", "misrakahmed/vegetable-image-dataset", 15),
    "street_foods": _kaggle_source("street_foods", "nikolasgegenava/popular-street-foods", 20),
    "instruments": _kaggle_source("instruments", "nikolasgegenava/music-instruments", 10),
}


def expand_union(name: str) -> tuple[str, ...]:
    """Return the names of the published datasets in a union; `name` itself if it is not a union."""
    return (UNIONS[name] or tuple(SOURCES)) if name in UNIONS else (name,)

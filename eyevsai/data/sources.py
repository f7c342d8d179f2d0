"""The datasets that `eyevsai data download` fetches: where their publishers keep them, and what
is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eyevsai.data.catalog import UNIONS

OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
KAGGLE = "https://www.kaggle.com/datasets"


@dataclass(frozen=True)
class Archive:
    """A file of a publisher. One that lies at Kaggle has a handle, is asked for by kagglehub, and
    brings its MD5.
    """

    file: str  # as a browser saves it; a mirror has it under NAME/ by the same name
    page: str  # where a person downloads it
    md5: str | None = None
    handle: str | None = None


@dataclass(frozen=True)
class DatasetSource:
    """A dataset of a publisher."""

    name: str
    images: Archive
    num_classes: int  # that its publisher names
    # lists of the official split, where the folders of `images` do not say it
    splits: Archive | None = None


def _kaggle(name: str, handle: str, num_classes: int) -> DatasetSource:
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
    "vegetables": _kaggle("vegetables", "misrakahmed/vegetable-image-dataset", 15),
    "street_foods": _kaggle("street_foods", "nikolasgegenava/popular-street-foods", 20),
    "instruments": _kaggle("instruments", "nikolasgegenava/music-instruments", 10),
}


def expand_union(name: str) -> tuple[str, ...]:
    """The published datasets that a name stands for: itself, or the parts of a union."""
    return (UNIONS[name] or tuple(SOURCES)) if name in UNIONS else (name,)

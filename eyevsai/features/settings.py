"""Settings of the handcrafted features; does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose
from eyevsai.core.settings import Choice, Detail, Doc, Range, Settings, as_flag

GROUPS = ("hog", "lbp", "color", "hog_words", "color_words")
MIN_CELL_PX = 2


@dataclass(frozen=True)
class FeatureSettings(Settings):
    """Settings of the handcrafted features.

    They are not tuned by default, so that a study extracts features once; a --space file may add
    them.
    """

    PANEL: ClassVar[str] = "Features"

    features: Annotated[
        str,
        Doc(
            "Features of an image: any of hog, lbp, color, hog_words and color_words, separated by "
            "commas."
        ),
    ] = "hog,lbp,color,hog_words,color_words"
    hog_cells: Annotated[
        int,
        Range(2, 64),
        Doc("Cells along each side for histograms of oriented gradients (Dalal & Triggs 2005)."),
    ] = 8
    hog_orientations: Annotated[
        int, Range(2, 36), Detail(), Doc("Orientation bins in each cell.")
    ] = 9
    hog_color: Annotated[
        bool,
        Detail(),
        Doc("Use the colour channel with the steepest gradient, instead of grey levels."),
    ] = True
    lbp_neighbours: Annotated[
        str,
        Choice(("8", "16", "both")),
        Doc(
            "Neighbours of local binary patterns (Ojala et al. 2002): 8 at radius 1, 16 at "
            "radius 2. Both take a quarter of the speed, and add about a point of accuracy."
        ),
    ] = "8"
    color_hues: Annotated[int, Range(1, 64), Detail(), Doc("Number of hue bins.")] = 8
    color_tones: Annotated[
        int, Range(1, 16), Detail(), Doc("Number of bins of saturation, and of value.")
    ] = 3
    pyramid_levels: Annotated[
        int,
        Range(1, 5),
        Doc(
            "Levels of the spatial pyramid of patterns and colours: grids of 1, 2, 4 ... regions "
            "a side (Lazebnik et al. 2006)."
        ),
    ] = 3
    square_root: Annotated[
        bool,
        Detail(),
        Doc(
            "Take the square root of frequencies of patterns and colours, the feature map of the "
            "Hellinger kernel."
        ),
    ] = True
    words: Annotated[
        int,
        Range(8, 1024),
        Doc(
            "Visual words of hog_words, and of color_words: shapes and colours of small blocks, "
            "typical of the train split (Csurka et al. 2004)."
        ),
    ] = 128
    word_cells: Annotated[
        int,
        Range(4, 64),
        Detail(),
        Doc("Cells along each side for visual words; a block has 2 x 2 of them."),
    ] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.groups:
            choose("feature", name, GROUPS)
        if not self.groups:
            raise UserError(f"--features is empty. Choose one or more of {', '.join(GROUPS)}.")
        if len(set(self.groups)) < len(self.groups):
            raise UserError(f"--features {self.features} has a duplicate. Remove it.")

    @property
    def groups(self) -> tuple[str, ...]:
        """Names in `features`, in the same order."""
        return tuple(name.strip() for name in self.features.split(",") if name.strip())

    @property
    def word_groups(self) -> tuple[str, ...]:
        """Names in `features` that need a codebook."""
        return tuple(name for name in self.groups if name.endswith("_words"))

    def check_size(self, image_size: int) -> None:
        """Raise UserError if images of this side in pixels are too small for the cells."""
        cells = {"hog_cells": "hog" in self.groups, "word_cells": bool(self.word_groups)}
        for name, is_used in cells.items():
            least = MIN_CELL_PX * getattr(self, name)
            if is_used and image_size < least:
                raise UserError(
                    f"--image-size {image_size} is too small for {as_flag(name)} "
                    f"{getattr(self, name)}: a cell has at least {MIN_CELL_PX} pixels. Choose at "
                    f"least --image-size {least}, or fewer cells."
                )

"""Which features describe an image, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose
from eyevsai.core.settings import Choice, Doc, Range, Settings

GROUPS = ("hog", "lbp", "color")
MIN_CELL_PX = 2


@dataclass(frozen=True)
class FeatureSettings(Settings):
    """Handcrafted features. None is searched, so that a study describes its images once; a space
    file may say so.
    """

    PANEL: ClassVar[str] = "Features"

    features: Annotated[
        str, Doc("Features that describe an image: any of hog, lbp and color, with commas.")
    ] = "hog,lbp,color"
    hog_cells: Annotated[
        int,
        Range(2, 64),
        Doc("Cells along each side for histograms of oriented gradients (Dalal & Triggs 2005)."),
    ] = 8
    hog_orientations: Annotated[int, Range(2, 36), Doc("Bins of orientation in each cell.")] = 9
    hog_color: Annotated[
        bool, Doc("Take gradients from the colour that is steepest, instead of from grey.")
    ] = True
    lbp_neighbours: Annotated[
        str,
        Choice(("8", "16", "both")),
        Doc(
            "Neighbours of local binary patterns (Ojala et al. 2002): 8 at radius 1, 16 at "
            "radius 2."
        ),
    ] = "both"
    color_hues: Annotated[int, Range(1, 64), Doc("Bins of hue.")] = 8
    color_tones: Annotated[int, Range(1, 16), Doc("Bins of saturation, and of value.")] = 3
    pyramid_levels: Annotated[
        int,
        Range(1, 5),
        Doc(
            "Grids of 1, 2, 4 ... regions a side in which patterns and colours are counted "
            "(Lazebnik et al. 2006)."
        ),
    ] = 3
    square_root: Annotated[
        bool,
        Doc(
            "Take the square root of shares of patterns and colours, the Hellinger kernel's "
            "feature map."
        ),
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.groups:
            choose("feature", name, GROUPS)
        if not self.groups:
            raise UserError(f"--features is empty. Name one or more of {', '.join(GROUPS)}.")
        if len(set(self.groups)) < len(self.groups):
            raise UserError(f"--features {self.features} names one twice.")

    @property
    def groups(self) -> tuple[str, ...]:
        """The names in `features`, in the order given."""
        return tuple(name.strip() for name in self.features.split(",") if name.strip())

    def check_size(self, image_size: int) -> None:
        """Raises UserError when images of this side are too small for cells and regions."""
        if "hog" in self.groups and image_size < MIN_CELL_PX * self.hog_cells:
            raise UserError(
                f"--image-size {image_size} is too small for --hog-cells {self.hog_cells}: a "
                f"cell has {MIN_CELL_PX} pixels or more. Choose at least --image-size "
                f"{MIN_CELL_PX * self.hog_cells}, or fewer cells."
            )

"""Settings and variations of the shallow family. Free of torch imports, to keep help fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from eyevsai.core.settings import Choice, Detail, Doc, Range, Search, When
from eyevsai.features.settings import FeatureSettings
from eyevsai.models.base import Family, Variation
from eyevsai.training.settings import LearningSettings, ThreadSettings


@dataclass(frozen=True)
class ShallowSettings(ThreadSettings, FeatureSettings, LearningSettings):
    """Handcrafted features, and their preprocessing for a classical estimator."""

    PANEL: ClassVar[str] = "shallow"
    LEGACY: ClassVar[Mapping[str, Any]] = {"balance": False}

    image_size: int = 128
    standardize: Annotated[
        bool, Detail(), Doc("Scale every feature to mean 0 and standard deviation 1.")
    ] = True
    balance: Annotated[
        bool,
        Detail(),
        Doc(
            "Give each group of features the same total variance, so that large groups do not "
            "outweigh small ones."
        ),
    ] = True
    reduction: Annotated[
        str,
        Choice(("none", "pca", "svd")),
        Search(Choice(("none", "pca", "svd"))),
        Doc("Dimensionality reduction: principal components, or truncated SVD without centring."),
    ] = "none"
    components: Annotated[
        int,
        Range(2, 4096),
        Search(Choice((50, 100, 150, 200, 300))),
        When("reduction", ("pca", "svd")),
        Doc("Dimensions after the reduction; fewer if the data do not allow as many."),
    ] = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_size(self.image_size)


@dataclass(frozen=True)
class SvmSettings(ShallowSettings):
    """One-vs-rest support vector machines."""

    reduction: str = "pca"
    C: Annotated[
        float,
        Range(1e-4, 1e4, log=True),
        Search(Range(0.1, 100.0, log=True)),
        Doc("Weight of the training errors; smaller values regularise more."),
    ] = 3.0
    kernel: Annotated[
        str,
        Choice(("rbf", "linear", "poly")),
        Search(Choice(("rbf", "linear", "poly"))),
        Doc("Kernel of the support vector machines."),
    ] = "rbf"
    gamma: Annotated[
        float | None,
        Range(1e-9, 1e3, log=True),
        Detail(),
        When("kernel", ("rbf", "poly")),
        Doc("kernel=rbf and poly: kernel coefficient; 1 / (features x their variance) by default."),
    ] = None
    degree: Annotated[
        int,
        Range(1, 8),
        Search(Range(2, 4)),
        When("kernel", ("poly",)),
        Doc("kernel=poly: degree of the polynomial."),
    ] = 3


@dataclass(frozen=True)
class ForestSettings(ShallowSettings):
    """Random forest: trees fitted to random subsets of images and features."""

    LEGACY: ClassVar[Mapping[str, Any]] = {**ShallowSettings.LEGACY, "discriminant_shrinkage": None}

    reduction: str = "pca"
    discriminant_shrinkage: Annotated[
        float | None,
        Range(0.01, 1.0),
        Search(Range(0.1, 0.9)),
        When("reduction", ("pca", "svd")),
        Doc(
            "Shrinkage of the linear discriminants of the classes, which trees split besides the "
            "first 50 components (Rao 1948); an empty value leaves the discriminants out."
        ),
    ] = 0.4
    n_estimators: Annotated[
        int, Range(1, 5000), Search(Choice((100, 200, 500))), Doc("Number of trees.")
    ] = 200
    max_depth: Annotated[
        int | None,
        Range(1, 200),
        Search(Choice((10, 20, 30, None))),
        Doc("Maximum depth of a tree; an empty value sets no limit."),
    ] = 20
    min_samples_leaf: Annotated[
        int, Range(1, 1000), Search(Choice((1, 2, 4))), Doc("Minimum number of images in a leaf.")
    ] = 1


FAMILY = Family(
    name="shallow",
    title="Handcrafted features with a classical estimator",
    learner="eyevsai.models.shallow.learner:ShallowLearner",
    framework="sklearn",
    variations={
        "svm_hog_lbp": Variation(
            title="Support vector machine",
            technical="Histograms of oriented gradients (Dalal & Triggs 2005), uniform local "
            "binary patterns (Ojala et al. 2002) and colour histograms in a spatial "
            "pyramid, visual words of gradients and colours (Csurka et al. 2004), reduced by PCA, "
            "with one-vs-rest kernel SVMs (Cortes & Vapnik 1995).",
            simple="Counts edges, textures and colours in parts of the picture, and places the "
            "borders between classes as far from all examples as possible.",
            settings=SvmSettings,
            papers=(
                "Dalal & Triggs 2005: Histograms of Oriented Gradients for Human Detection",
                "Ojala et al. 2002: Multiresolution Gray-Scale and Rotation Invariant Texture "
                "Classification with Local Binary Patterns",
                "Csurka et al. 2004: Visual Categorization with Bags of Keypoints",
                "Cortes & Vapnik 1995: Support-Vector Networks",
            ),
        ),
        "rf_hog_lbp": Variation(
            title="Random forest",
            technical="The same features, their principal components and linear discriminants "
            "(Rao 1948), with a random forest (Breiman 2001).",
            simple="Counts edges, textures and colours in parts of the picture, and lets "
            "hundreds of decision trees vote.",
            settings=ForestSettings,
            piecewise_constant=True,
            papers=(
                "Dalal & Triggs 2005: Histograms of Oriented Gradients for Human Detection",
                "Ojala et al. 2002: Multiresolution Gray-Scale and Rotation Invariant Texture "
                "Classification with Local Binary Patterns",
                "Csurka et al. 2004: Visual Categorization with Bags of Keypoints",
                "Rao 1948: The Utilization of Multiple Measurements in Problems of Biological "
                "Classification",
                "Breiman 2001: Random Forests",
            ),
        ),
    },
)

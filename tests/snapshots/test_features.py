"""Features against scikit-image and numpy, on photographs that scikit-image ships and, where they
are, on others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.color import rgb2hsv
from skimage.feature import hog, local_binary_pattern

from eyevsai.data.decode import decode
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.features.color import ColorBlocks, ColorHistogram
from eyevsai.features.extractor import Extractor, grey_levels
from eyevsai.features.hog import Gradients, Hog, HogBlocks
from eyevsai.features.lbp import Lbp
from eyevsai.features.settings import FeatureSettings
from eyevsai.features.visual_words import VisualWords, fit_codebook

SIZE = 96
Crops = np.ndarray


def shipped() -> list[np.ndarray]:
    """A person, a cat and a cup of coffee, whole and in parts."""
    pictures = [data.astronaut(), data.chelsea(), data.coffee()]
    return [
        *pictures,
        *(picture[40 : 40 + side, 90 : 90 + side] for picture in pictures for side in (240, 111)),
    ]


@pytest.fixture(scope="module", params=["shipped", "photos"])
def crops(request: pytest.FixtureRequest) -> Crops:
    """N,S,S,3 uint8."""
    if request.param == "shipped":
        pictures = shipped()
    else:
        from tests.conftest import PHOTOS

        if not PHOTOS.is_dir():
            pytest.skip(f"no photographs at {PHOTOS}: set EYEVSAI_PHOTOS")
        pictures = [decode(path) for path in sorted(Path(PHOTOS).glob("*/*/*.jpg"))[::90]]
    preprocessing = Preprocessing(SIZE)
    return torch.cat(
        [preprocessing.crop(torch.from_numpy(each.copy())[None]) for each in pictures]
    ).numpy()


def channels(crops: Crops) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(crops).permute(3, 0, 1, 2).float().unbind()


def greys(crops: Crops) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(crop).convert("L")) for crop in crops])


def test_grey_is_pillows(crops: Crops) -> None:
    np.testing.assert_array_equal(grey_levels(*channels(crops)).numpy(), greys(crops))


@pytest.mark.parametrize(("cells", "orientations"), [(12, 9), (8, 8), (6, 9), (7, 6), (11, 9)])
def test_hog_is_scikit_images(crops: Crops, cells: int, orientations: int) -> None:
    module, cell = Hog(SIZE, orientations, cells), SIZE // cells
    gradients = Gradients(orientations)
    assert (module.describe.histogram.rows, module.describe.histogram.columns) == (cells, cells)
    sizes = (orientations, (cell, cell), (2, 2))
    expected = np.stack(
        [hog_of_cells(crop, *sizes, cells=cells, channel_axis=-1) for crop in crops]
    )
    np.testing.assert_allclose(module(*gradients(channels(crops))).numpy(), expected, atol=1e-5)
    expected = np.stack([hog_of_cells(grey, *sizes, cells=cells) for grey in greys(crops)])
    grey = grey_levels(*channels(crops))
    np.testing.assert_allclose(module(*gradients([grey])).numpy(), expected, atol=1e-5)
    assert expected.shape[1] == module.dimensions


def hog_of_cells(image: np.ndarray, *sizes: object, cells: int, **options: object) -> np.ndarray:
    """scikit-image's, of the first `cells` a side where as many more would have room."""
    blocks = hog(image, *sizes, feature_vector=False, **options)
    return blocks[: cells - 1, : cells - 1].ravel()


@pytest.mark.parametrize(("neighbours", "radius"), [(8, 1), (16, 2)])
def test_lbp_is_scikit_images_but_for_ties(crops: Crops, neighbours: int, radius: int) -> None:
    module = Lbp(SIZE, neighbours, radius, levels=1)
    grey = greys(crops)
    codes = module.codes(torch.from_numpy(grey).float()).numpy()
    inner = slice(radius, -radius)
    expected = np.stack(
        [local_binary_pattern(each, neighbours, radius, "uniform")[inner, inner] for each in grey]
    )
    other = codes != expected
    assert other.mean() <= 1e-3
    distance = np.stack(
        [nearest_tie(each.astype(np.float64), module)[inner, inner] for each in grey]
    )
    # a neighbour is as light as the pixel, and rounding decides
    assert (distance[other] < 1e-6).all()
    shares = module(torch.from_numpy(grey).float()).numpy()
    histograms = np.stack(
        [np.bincount(each.astype(int).ravel(), minlength=neighbours + 2) for each in expected]
    )
    np.testing.assert_allclose(shares, histograms / expected[0].size, atol=1e-3)


def nearest_tie(grey: np.ndarray, module: Lbp) -> np.ndarray:
    """How far the neighbour that is nearest in lightness is from each pixel, in float64."""
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float64)
    nearest = np.full(grey.shape, np.inf)
    for down, right in module.offsets:
        top, left = np.floor(down), np.floor(right)
        rows = [np.take(grey, y[:, 0].astype(int) + int(top + a), 0, mode="clip") for a in (0, 1)]
        corners = [
            [np.take(row, x[0].astype(int) + int(left + b), 1, mode="clip") for b in (0, 1)]
            for row in rows
        ]
        across = [near + (far - near) * (right - left) for near, far in corners]
        nearest = np.minimum(
            nearest, abs(across[0] + (across[1] - across[0]) * (down - top) - grey)
        )
    return nearest


@pytest.mark.parametrize(("hues", "tones"), [(8, 3), (6, 4), (16, 2), (1, 1)])
def test_colors_are_those_of_scikit_image_and_numpy(crops: Crops, hues: int, tones: int) -> None:
    found = ColorHistogram(SIZE, hues, tones, levels=1)(*channels(crops)).numpy()
    ranges = ((0, 1), (0, 1), (0, 255))
    pixels = [rgb2hsv(crop.astype(np.float64)).reshape(-1, 3) for crop in crops]
    counted = [
        np.histogramdd(each, bins=(hues, tones, tones), range=ranges)[0].ravel() for each in pixels
    ]
    np.testing.assert_allclose(found, np.stack(counted) / SIZE**2, atol=1e-5)


def test_a_pyramid_counts_quarters_and_adds_them_up(crops: Crops) -> None:
    module = ColorHistogram(SIZE, 8, 3, levels=2)
    whole, *quarters = module(*channels(crops)).unflatten(1, (5, -1)).unbind(1)
    torch.testing.assert_close(whole, torch.stack(quarters).mean(0))
    half = SIZE // 2
    corners = [crops[:, y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    for quarter, corner in zip(quarters, corners, strict=True):
        torch.testing.assert_close(quarter, ColorHistogram(half, 8, 3, levels=1)(*channels(corner)))


@pytest.mark.parametrize("size", [32, 50, 128])
@pytest.mark.parametrize(
    "groups", ["hog,lbp,color", "color,hog", "lbp", "hog_words,hog,color_words", "color_words"]
)
def test_groups_stand_side_by_side_in_the_order_given(crops: Crops, size: int, groups: str) -> None:
    images = Preprocessing(size).crop(torch.from_numpy(crops))
    settings = FeatureSettings(features=groups)
    extractor = Extractor(settings, size)
    fill_codebooks(extractor, images)
    features = extractor(images)
    assert features.shape == (len(images), extractor.dimensions)
    for name, columns in extractor.groups.items():
        alone = Extractor(FeatureSettings(features=name), size)
        fill_codebooks(alone, images)
        torch.testing.assert_close(features[:, columns], alone(images), rtol=0, atol=0)
    torch.testing.assert_close(extractor.extract(images), features, rtol=0, atol=0)


def fill_codebooks(extractor: Extractor, images: torch.Tensor) -> None:
    state = {}
    for name, blocks in extractor.extract_blocks(images).items():
        weight, bias = fit_codebook(blocks.numpy(), extractor.settings.words)
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    extractor.load_state_dict(state)


def test_blocks_of_words_are_those_of_scikit_image(crops: Crops) -> None:
    extractor = Extractor(FeatureSettings(features="hog_words"), SIZE)
    found = extractor.extract_blocks(torch.from_numpy(crops))["hog_words"].numpy()
    cell = SIZE // 16
    expected = [hog(each, 9, (cell, cell), (2, 2), channel_axis=-1) for each in crops]
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 36)), atol=1e-5)


def test_blocks_of_colours_are_means_and_deviations_of_opponent_colours(crops: Crops) -> None:
    cells, cell = 16, SIZE // 16
    red, green, blue = crops.transpose(3, 0, 1, 2).astype(np.float64)
    opponents = [(red - green) / 2, (red + green - 2 * blue) / 4, (red + green + blue) / 3]
    means, regions = (
        np.stack(each, -1).reshape(-1, cells, cell, cells, cell, 3)
        for each in (opponents, (red, green, blue))
    )
    moments = np.concatenate([means.mean((2, 4)), regions.std((2, 4)).clip(1)], -1)
    found = ColorBlocks(SIZE, cells)(*channels(crops)).numpy()
    for row, column in ((0, 0), (3, 9), (14, 14)):
        block = moments[:, row : row + 2, column : column + 2].reshape(len(crops), -1)
        np.testing.assert_allclose(found[:, row, column], block, atol=1e-2)


@pytest.mark.parametrize("cells", [4, 9, 16])
def test_shares_of_words_are_a_softmax_of_distances_to_the_centres_of_kmeans(
    crops: Crops, cells: int
) -> None:
    """Against scikit-learn's transformers, one after the other."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    words = VisualWords(HogBlocks(SIZE, 9, cells), 8)
    pixels = Gradients(9)(channels(crops))
    blocks = words.describe(*pixels)
    flat = blocks.flatten(0, 2).numpy()
    weight, bias = fit_codebook(flat, 8)
    words.load_state_dict({"weight": weight, "bias": bias})
    found = words(*pixels).numpy()

    reduced = make_pipeline(StandardScaler(), PCA(24, svd_solver="full")).fit(flat.astype(float))
    scales = (
        np.maximum(reduced[-1].explained_variance_, 1e-3 * reduced[-1].explained_variance_[0])
        ** -0.25
    )
    inputs = reduced.transform(flat.astype(float)) * scales
    kmeans = KMeans(8, n_init=1, max_iter=30, random_state=0).fit(inputs)
    squares = kmeans.transform(inputs) ** 2
    nearest = np.sort(squares, axis=1)
    logits = -1.5 * squares / np.median(nearest[:, 1] - nearest[:, 0])
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = (shares / shares.sum(1, keepdims=True)).reshape(*blocks.shape[:3], 8)
    side = blocks.shape[1]
    near, far = slice(0, (side + 1) // 2), slice(side // 2, side)
    parts = [shares, *(shares[:, rows, columns] for rows in (near, far) for columns in (near, far))]
    expected = np.concatenate([part.mean((1, 2)) for part in parts], axis=1)
    np.testing.assert_allclose(found, expected, atol=2**-14)
    np.testing.assert_allclose(found.reshape(-1, 5, 8).sum(2), 1, atol=8 * 2**-15)


def test_codebook_of_blank_blocks_is_finite() -> None:
    weight, bias = fit_codebook(np.zeros((40, 24), dtype=np.float32), 16)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()

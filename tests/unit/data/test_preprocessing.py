from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as reference

from eyevsai.data.exportable_resize import ExportableResize
from eyevsai.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (1, height, width, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )


@given(st.integers(1, 300), st.integers(1, 300), st.integers(32, 64))
def test_the_short_side_is_fixed_and_a_second_resize_changes_nothing(
    height: int, width: int, size: int
) -> None:
    preprocessing = Preprocessing(size)
    once = preprocessing.resize(image(height, width))
    assert min(once.shape[1:3]) == preprocessing.short_side_px == math.ceil(1.15 * size)
    assert max(once.shape[1:3]) <= 2 * preprocessing.short_side_px
    assert torch.equal(preprocessing.resize(once), once)
    assert preprocessing.crop(once).shape == (1, size, size, 3)


@pytest.mark.parametrize(("height", "width"), [(120, 160), (37, 50), (500, 333)])
def test_resize_is_torchvisions_antialiased_bilinear(height: int, width: int) -> None:
    source = image(height, width)
    resized = Preprocessing(64).resize(source)
    planes = source.permute(0, 3, 1, 2)
    assert torch.equal(
        resized.permute(0, 3, 1, 2),
        reference.resize(planes, list(resized.shape[1:3]), antialias=True),
    )
    in_float = (
        reference.resize(planes.float(), list(resized.shape[1:3]), antialias=True)
        .round()
        .clamp(0, 255)
    )
    assert (resized.permute(0, 3, 1, 2).float() - in_float).abs().max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (120, 160),
        (37, 50),
        (500, 333),
        (1000, 1900),
        (1500, 2000),
        (200, 900),
        (900, 100),
        (31, 33),
        (1, 5),
        (258, 258),
    ],
)
def test_matrix_products_give_the_same_pixels(
    height: int, width: int, size: int, interpolation: str
) -> None:
    """What makes an exported graph say the same: integers, whatever adds them up."""
    source, preprocessing = image(height, width), Preprocessing(size, interpolation=interpolation)
    assert torch.equal(ExportableResize(preprocessing)(source), preprocessing.crop(source))


@pytest.mark.xdist_group("onnx")
def test_a_runtime_without_float64_gives_the_same_pixels() -> None:
    openvino = pytest.importorskip("openvino", reason="no openvino: pip install -e '.[openvino]'")
    preprocessing, dynamic = Preprocessing(64), torch.export.Dim.DYNAMIC
    axes = ({0: dynamic, 1: dynamic, 2: dynamic},)
    traced = torch.export.export(
        ExportableResize(preprocessing), (image(50, 60).expand(2, -1, -1, -1),), dynamic_shapes=axes
    )
    program = torch.onnx.export(traced, dynamo=True, verbose=False)
    assert program is not None
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(program.model_proto.SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    for height, width in (
        (120, 160),
        (37, 50),
        (333, 500),
        (1500, 2000),
        (900, 100),
        (31, 33),
        (1, 5),
        (148, 161),
    ):
        source = image(height, width)
        (pixels,) = compiled([source.numpy()]).values()
        assert torch.equal(torch.from_numpy(pixels), preprocessing.crop(source)), (height, width)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(32, 64))
def test_matrix_products_give_the_same_pixels_of_any_size(
    height: int, width: int, size: int
) -> None:
    source, preprocessing = image(height, width), Preprocessing(size)
    assert torch.equal(ExportableResize(preprocessing)(source), preprocessing.crop(source))


def test_normalize_is_torchvisions() -> None:
    crops = image(64, 64)
    expected = reference.normalize(
        crops.permute(0, 3, 1, 2) / 255, list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    torch.testing.assert_close(Preprocessing(64).normalize(crops), expected, rtol=0, atol=1e-5)


def test_json_round_trip() -> None:
    preprocessing = Preprocessing(96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from((32, 33, 40)))
def test_the_square_of_an_image_has_its_crop(height: int, width: int, image_size: int) -> None:
    preprocessing = Preprocessing(image_size)
    image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    square = preprocessing.center_square(preprocessing.resize(image))
    assert square.shape[1:3] == (preprocessing.short_side_px,) * 2
    assert torch.equal(preprocessing.crop(square), preprocessing.crop(image))


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), st.floats(0.01, 1.0))
def test_normalization_is_that_of_float32_tensors(mean: list[float], std: float) -> None:
    crops = image(8, 8)
    scale, shift = 1 / (255 * torch.tensor([std] * 3)), -torch.tensor(mean) / torch.tensor(std)
    assert torch.equal(
        Preprocessing(32, mean=tuple(mean), std=(std,) * 3).normalize(crops),
        torch.addcmul(shift, crops.to(torch.float32), scale).permute(0, 3, 1, 2),
    )


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_resized_sides_are_rounded_half_to_even(height: int, width: int) -> None:
    preprocessing, short = Preprocessing(100), min(height, width)
    sides = (min(side, 2 * short) for side in (height, width))
    side_px = preprocessing.short_side_px
    assert preprocessing.resized_shape(height, width) == tuple(
        round(Fraction(side * side_px, short)) for side in sides
    )

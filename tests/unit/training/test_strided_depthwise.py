"""Faster backward pass of strided depthwise convolutions: same outputs and gradients."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from eyevsai.training.strided_depthwise import Arguments, StridedDepthwise


def gradients(network: nn.Module, images: Tensor) -> list[Tensor]:
    inputs = images.clone().requires_grad_()
    output = network(inputs)
    network.zero_grad()
    # weights differ by position, so that a shifted gradient is noticed
    (output * torch.linspace(0, 1, output.numel()).view(output.shape)).sum().backward()
    return [output, inputs.grad, *(each.grad for each in network.parameters())]  # type: ignore[list-item]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Check tensors of the same dtype, up to the rounding of bfloat16 to 8 bits."""
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(
        actual, expected, rtol=0.02, atol=0.01 * max(1.0, expected.abs().max().item())
    )


GEOMETRIES = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([1, 2, 3, 5, (5, 2)]),
        "stride": st.sampled_from([2, 3, (2, 1), (1, 3)]),
        "padding": st.sampled_from([0, 1, 2, 4, (1, 0)]),
        "dilation": st.sampled_from([1, 1, (2, 1)]),
        "bias": st.booleans(),
    }
)


@given(st.integers(2, 5), st.tuples(st.integers(9, 13), st.integers(9, 13)), GEOMETRIES)
def test_outputs_and_gradients_are_those_of_pytorch(
    channels: int, size: tuple[int, int], geometry: dict[str, Any]
) -> None:
    network = nn.Conv2d(channels, channels, groups=channels, **geometry).bfloat16()
    images = torch.rand(2, channels, *size).bfloat16()
    expected = gradients(copy.deepcopy(network).float(), images.float())
    with StridedDepthwise():
        actual = gradients(network, images)
    assert len(actual) == 3 + geometry["bias"]
    for one, other in zip(actual, expected, strict=True):
        assert_close(one.float(), other)


def test_autocast_casts_as_without_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(network, images)
        with StridedDepthwise():
            actual = gradients(network, images)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize(
    "network",
    [nn.Conv2d(4, 4, 3, 1, groups=4), nn.Conv2d(4, 8, 3, 2, groups=4), nn.Conv2d(4, 4, 3, 2)],
)
def test_other_convolutions_are_left_to_pytorch(network: nn.Conv2d) -> None:
    images = torch.rand(2, 4, 8, 8).bfloat16()
    arguments = Arguments(
        images, network.weight, network.bias, network.stride, network.padding, 1, network.groups
    )
    assert not arguments.is_slow


def test_predictions_are_left_to_pytorch() -> None:
    weight = torch.rand(4, 1, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    arguments = Arguments(torch.rand(2, 4, 8, 8).bfloat16(), weight, None, 2, 1, 1, 4)
    assert arguments.is_slow
    with torch.no_grad():
        assert not arguments.is_slow

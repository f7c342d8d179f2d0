"""Faster backward pass of strided depthwise convolutions in bfloat16, on a CPU.

PyTorch computes this backward pass on a CPU 10 to 80 times more slowly than by the formulas below:
it took 44 % of a training step of `efficientnet_lite0` (docs/decisions/046-strided-depthwise.md).

With stride s, the inputs i = s q + a of a phase a in 0..s-1 meet only the kernel positions
k = s j + (a + padding) mod s. Each phase is therefore a convolution with stride 1, which is fast:

    output[o] = sum over phases, sum over j of kernel[k_a + s j] inputs[a :: s][o - d_a + j],

where k_a = (a + padding) mod s and d_a = (a + padding - k_a) / s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Arguments(NamedTuple):
    """Arguments of `torch.conv2d`, in its order."""

    images: Tensor  # N,C,H,W
    weight: Tensor  # C,1,K,K of a depthwise convolution
    bias: Tensor | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @property
    def is_slow(self) -> bool:
        """Return True if PyTorch's backward pass is slow, and will be computed."""
        return (
            self.images.device.type == "cpu"
            and self.dtype == torch.bfloat16
            and self.images.ndim == 4
            and self.groups == self.images.shape[1] == self.weight.shape[0] > 1
            and max(_pair(self.stride)) > 1
            and _pair(self.dilation) == [1, 1]
            and not isinstance(self.padding, str)
            and torch.is_grad_enabled()
            and (self.images.requires_grad or self.weight.requires_grad)
        )

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the convolution."""
        is_cast = torch.is_autocast_enabled("cpu")
        return torch.get_autocast_dtype("cpu") if is_cast else self.images.dtype


class StridedDepthwise(TorchFunctionMode):
    """Context in which strided depthwise convolutions have a faster backward pass.

    Outputs are those of PyTorch; gradients differ by the rounding of bfloat16.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs:
            arguments = Arguments(*args)
            if arguments.is_slow:
                return _convolve(arguments)
        return func(*args, **(kwargs or {}))


def _convolve(arguments: Arguments) -> Tensor:
    images, weight = (each.to(arguments.dtype) for each in (arguments.images, arguments.weight))
    geometry = _pair(arguments.stride), _pair(arguments.padding)
    output: Tensor = _Convolution.apply(images, weight, geometry)
    if arguments.bias is None:
        return output
    return output + arguments.bias.to(output.dtype).view(-1, 1, 1)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _Convolution(torch.autograd.Function):
    """Depthwise convolution without bias, whose gradients are computed by phases."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, geometry: tuple[list[int], list[int]]
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry = geometry
        with torch.autocast("cpu", enabled=False):
            return torch.conv2d(images, weight, None, *geometry, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        images, weight = ctx.saved_tensors
        of_images = torch.empty_like(images) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        axes = zip(
            images.shape[2:], weight.shape[2:], gradient.shape[2:], *ctx.geometry, strict=True
        )
        rows, columns = (list(_phases(*axis)) for axis in axes)
        for row in rows:
            for column in columns:
                part = slice(None), slice(None), row.inputs, column.inputs
                taps = slice(None), slice(None), row.kernel, column.kernel
                kernel = weight[taps].contiguous()
                if of_images is not None:
                    of_images[part] = _image_gradient(gradient, kernel, row, column)
                if of_weight is not None and kernel.numel():
                    of_weight[taps] = _weight_gradient(images[part], gradient, kernel, row, column)
        return of_images, of_weight, None


class _Phase(NamedTuple):
    """Inputs of one phase along one axis, and the kernel positions that they meet.

    The paddings, before and after, are those with which a convolution of the gradient yields the
    gradient of the inputs, and one of the inputs the outputs; negative ones crop.
    """

    inputs: slice
    kernel: slice
    gradient_padding: tuple[int, int]
    input_padding: tuple[int, int]


def _phases(
    num_inputs: int, size: int, num_outputs: int, stride: int, padding: int
) -> Iterator[_Phase]:
    for start in range(min(stride, num_inputs)):
        first = (start + padding) % stride
        shift = (start + padding - first) // stride
        inputs = len(range(start, num_inputs, stride))
        taps = len(range(first, size, stride))
        yield _Phase(
            slice(start, None, stride),
            slice(first, None, stride),
            (taps - 1 - shift, inputs + shift - num_outputs),
            (shift, num_outputs - shift + taps - 1 - inputs),
        )


def _image_gradient(
    gradient: Tensor, kernel: Tensor, row: _Phase, column: _Phase
) -> Tensor | float:
    """Return the gradient of the inputs of a phase; 0 if they meet no position of the kernel."""
    if not kernel.numel():
        return 0.0
    padded = nn.functional.pad(gradient, (*column.gradient_padding, *row.gradient_padding))
    return torch.conv2d(padded, kernel.flip(2, 3), groups=len(kernel))


def _weight_gradient(
    images: Tensor, gradient: Tensor, kernel: Tensor, row: _Phase, column: _Phase
) -> Tensor:
    """Return the gradient of the positions of the kernel that meet a phase."""
    padded = nn.functional.pad(images, (*column.input_padding, *row.input_padding))
    _, result, _ = torch.ops.aten.convolution_backward(
        gradient,
        padded.contiguous(memory_format=torch.channels_last),
        kernel,
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        len(kernel),
        [False, True, False],
    )
    weight_gradient: Tensor = result
    return weight_gradient

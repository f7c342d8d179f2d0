"""Implementations of torch's ATen operations in TensorFlow, for traced graphs.

The layout of values is torch's, N,C,H,W. TensorFlow computes convolutions and pooling on a CPU only
as N,H,W,C, so values are transposed before and after them.

Functions have the arguments of the ATen operation in their docstring, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import torch

from eyevsai.core.errors import UserError

TYPES = {
    torch.float32: tf.float32,
    torch.float64: tf.float64,
    torch.int64: tf.int64,
    torch.int32: tf.int32,
    torch.uint8: tf.uint8,
    torch.bool: tf.bool,
    torch.int8: tf.int8,
}

Tensor = Any  # TensorFlow has no type annotations for mypy


def unsupported_operation(operation: str) -> UserError:
    """Return the error for an operation of torch that has no implementation here."""
    return UserError(
        f"--format tensorflow does not support torch's operation {operation}: use --format onnx."
    )


def promote(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cast two operands to a common type by torch's rule of type promotion.

    A number is cast to the type of a tensor, and a 0-d tensor to that of a tensor with dimensions.
    Otherwise a floating type takes precedence over an integer type, and then a wider type over a
    narrower one. Two numbers are returned unchanged.
    """
    if not (tf.is_tensor(first) or tf.is_tensor(second)):
        return first, second
    ranks = [each.shape.rank if tf.is_tensor(each) else -1 for each in (first, second)]
    if min(ranks) > 0 or ranks[0] == ranks[1]:
        common = max(first.dtype, second.dtype, key=lambda dtype: (dtype.is_floating, dtype.size))
    else:
        common = (first if ranks[0] > ranks[1] else second).dtype
    return tf.cast(first, common), tf.cast(second, common)


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda first, second: compute(*promote(first, second))


def _in_nhwc(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a function of N,H,W,C to N,C,H,W; return N,C',H',W'."""
    return tf.transpose(compute(tf.transpose(images, (0, 2, 3, 1))), (0, 3, 1, 2))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def conv2d(images: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
    """Compute `aten.conv2d`.

    Args:
        images: N,C,H,W.
        weight: C',C/groups,h,w.
        bias: C', or None.
        rest: stride, padding, dilation and groups; missing ones have torch's defaults.
    """
    settings: list[Any] = [1, 0, 1, 1]
    settings[: len(rest)] = rest
    stride, padding, dilation, groups = settings
    strides, (rows, columns), dilations = _pair(stride), _pair(padding), _pair(dilation)
    kernel = tf.transpose(weight, (2, 3, 1, 0))
    channels = images.shape[1]
    depthwise = groups == channels == weight.shape[0]

    def _compute(values: Tensor) -> Tensor:
        if rows or columns:
            values = tf.pad(values, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
        if depthwise and groups > 1:
            depthwise_kernel = tf.transpose(kernel, (0, 1, 3, 2))
            return tf.nn.depthwise_conv2d(
                values, depthwise_kernel, (1, *strides, 1), "VALID", dilations=dilations
            )
        return tf.nn.conv2d(values, kernel, strides, "VALID", dilations=dilations)

    result = _in_nhwc(_compute, images)
    return result if bias is None else result + tf.reshape(bias, (1, -1, 1, 1))


def normalize_batch(
    images: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *rest: Any
) -> Tensor:
    """Compute `aten.batch_norm` in inference mode.

    Args:
        images: N,C,...
        weight: C.
        bias: C.
        mean: C, the running mean.
        variance: C, the running variance.
        rest: training, momentum, eps and cudnn_enabled, of which only eps is used.
    """
    scale = weight * tf.math.rsqrt(variance + rest[2])
    channel_shape = (1, -1, *(1 for _ in range(images.shape.rank - 2)))
    shift = tf.reshape(bias - mean * scale, channel_shape)
    return images * tf.reshape(scale, channel_shape) + shift


def normalize_groups(
    images: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *_: Any
) -> Tensor:
    """Compute `aten.group_norm`.

    Args:
        images: N,C,H,W.
        groups: number of groups, a divisor of C.
        weight: C.
        bias: C.
        eps: is added to the variance.
    """
    shape = tf.shape(images)
    grouped = tf.reshape(images, (shape[0], groups, -1))
    mean, variance = tf.nn.moments(grouped, [2], keepdims=True)
    normalized = tf.reshape((grouped - mean) * tf.math.rsqrt(variance + eps), shape)
    return normalized * tf.reshape(weight, (1, -1, 1, 1)) + tf.reshape(bias, (1, -1, 1, 1))


def pool2d(
    pooling_type: str, images: Tensor, size: Any, stride: Any = (), padding: Any = 0, *rest: Any
) -> Tensor:
    """Compute `aten.max_pool2d` or `aten.avg_pool2d`; averages exclude the padding.

    Args:
        pooling_type: "MAX" or "AVG".
        images: N,C,H,W.
        size: height and width of the window, or one number for both.
        stride: likewise; that of the window by default.
        padding: likewise, on each side.
        rest: dilation and ceil_mode for "MAX"; ceil_mode, count_include_pad and divisor_override
            for "AVG".

    Raises:
        UserError: the window has a dilation, or the average includes the padding or has a divisor.
    """
    sizes, (rows, columns) = _pair(size), _pair(padding)
    strides = _pair(stride) if stride else sizes
    ceil = any(rest[1:2] if pooling_type == "MAX" else rest[:1])
    if pooling_type == "MAX" and rest and _pair(rest[0]) != (1, 1):
        raise unsupported_operation(f"max_pool2d with dilation {rest[0]}")
    if pooling_type == "AVG" and rest[2:3] not in ((), (None,)):
        raise unsupported_operation(f"avg_pool2d with divisor_override {rest[2]}")
    if pooling_type == "AVG" and (rows or columns) and all(rest[1:2]):
        raise unsupported_operation("avg_pool2d with count_include_pad")

    def _compute(values: Tensor) -> Tensor:
        margins = []
        for axis, (length, step, margin) in enumerate(
            zip(sizes, strides, (rows, columns), strict=True)
        ):
            span = values.shape[axis + 1] + 2 * margin - length
            margins.append((margin, margin + (-span % step if ceil else 0)))
        if not any(map(any, margins)):
            return tf.nn.pool(values, sizes, pooling_type, strides, "VALID")
        margins_nhwc = ((0, 0), *margins, (0, 0))
        if pooling_type == "MAX":
            padded = tf.pad(values, margins_nhwc, constant_values=values.dtype.min)
            return tf.nn.pool(padded, sizes, pooling_type, strides, "VALID")
        padded, inside = tf.pad(values, margins_nhwc), tf.pad(tf.ones_like(values), margins_nhwc)
        averages = tf.nn.pool(padded, sizes, pooling_type, strides, "VALID")
        # the average of `inside` is the share of the window that is not padding
        return averages / tf.nn.pool(inside, sizes, pooling_type, strides, "VALID")

    return _in_nhwc(_compute, images)


def pad(
    values: Tensor, margins: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Compute `aten.pad`.

    Args:
        values: tensor of any shape.
        margins: widths before and after each axis, from the last axis backwards.
        mode: "constant".
        value: the padded value; None is 0.

    Raises:
        UserError: the mode is another one.
    """
    if mode != "constant":
        raise unsupported_operation(f"pad with mode {mode}")
    last_axes = list(zip(margins[::2], margins[1::2], strict=True))[::-1]
    all_axes = [(0, 0)] * (values.shape.rank - len(last_axes)) + last_axes
    return tf.pad(values, all_axes, constant_values=value or 0)


def sum_over(
    values: Tensor, axes: Sequence[int], keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """Compute `aten.sum` over some axes.

    Args:
        values: tensor of any shape.
        axes: the axes to reduce.
        keepdim: keep them with length 1.
        dtype: torch's type to cast the values to before; None keeps theirs.
    """
    return tf.reduce_sum(
        values if dtype is None else tf.cast(values, TYPES[dtype]), axes, keepdims=keepdim
    )


def flatten(values: Tensor, start: int = 0, end: int = -1) -> Tensor:
    """Compute `aten.flatten`: join the axes from `start` to `end`, both included."""
    rank = values.shape.rank
    first, last = start % rank, end % rank
    shape = tf.shape(values)
    return tf.reshape(values, tf.concat([shape[:first], [-1], shape[last + 1 :]], 0))


def unflatten(values: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """Compute `aten.unflatten`: split an axis into axes of `sizes`, of which one may be -1."""
    axis %= values.shape.rank
    shape = tf.shape(values)
    return tf.reshape(
        values, tf.concat([shape[:axis], tf.stack(list(sizes)), shape[axis + 1 :]], 0)
    )


def clamp(values: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Compute `aten.clamp` and `aten.hardtanh`; a limit of None does not apply."""
    values = values if low is None else tf.maximum(*promote(values, low))
    return values if high is None else tf.minimum(*promote(values, high))


def transpose(values: Tensor, first: int, second: int) -> Tensor:
    """Compute `aten.transpose`: swap two axes."""
    axes = list(range(values.shape.rank))
    axes[first], axes[second] = axes[second], axes[first]
    return tf.transpose(values, axes)


def max_along_axis(values: Tensor, axis: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Compute `aten.max.dim`: maxima along an axis and their indices.

    Only the maxima keep the axis with `keepdim`.
    """
    return tf.reduce_max(values, axis, keepdims=keepdim), tf.argmax(values, axis)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `aten.linear`: ...,C and a weight C',C give ...,C'."""
    result = tf.matmul(values, weight, transpose_b=True)
    return result if bias is None else result + bias


def adaptive_avg_pool2d(images: Tensor, size: Any) -> Tensor:
    """Compute `aten.adaptive_avg_pool2d` to 1 x 1, the only output size of eyevsai's networks.

    Raises:
        UserError: the output size is another one.
    """
    if _pair(size) != (1, 1):
        raise unsupported_operation(f"adaptive_avg_pool2d to {size}")
    return tf.reduce_mean(images, (2, 3), keepdims=True)


def arange(end: Any, **kwargs: Any) -> Tensor:
    """Compute `aten.arange` from 0 with step 1; int64 unless `dtype` is given."""
    return tf.cast(tf.range(end), TYPES[kwargs.get("dtype") or torch.int64])


def _identity(values: Tensor, *_: Any, **__: Any) -> Tensor:
    return values


OPERATIONS: dict[str, Callable[..., Any]] = {
    "sym_size.int": lambda values, axis: tf.shape(values)[axis],
    "add.Tensor": lambda first, second, alpha=1: tf.add(
        *promote(first, second if alpha == 1 else second * alpha)
    ),
    "sub.Tensor": _binary(tf.subtract),
    "mul.Tensor": _binary(tf.multiply),
    "div.Tensor": _binary(tf.divide),
    "maximum.default": _binary(tf.maximum),
    "minimum.default": _binary(tf.minimum),
    "ge.Scalar": _binary(tf.greater_equal),
    "ge.Tensor": _binary(tf.greater_equal),
    "gt.Tensor": _binary(tf.greater),
    "lt.Scalar": _binary(tf.less),
    "lt.Tensor": _binary(tf.less),
    "pow.Scalar": _binary(tf.pow),
    "rsub.Scalar": lambda first, second: tf.subtract(*promote(second, first)),
    "addcmul.default": lambda values, first, second: values + first * second,
    "__and__.Tensor": tf.logical_and,
    "where.self": lambda condition, first, second: tf.where(condition, *promote(first, second)),
    "abs.default": tf.abs,
    "log.default": tf.math.log,
    "neg.default": tf.negative,
    "floor.default": tf.floor,
    "round.default": tf.round,
    "sign.default": tf.sign,
    "reciprocal.default": tf.math.reciprocal,
    "sigmoid.default": tf.sigmoid,
    "relu.default": tf.nn.relu,
    "silu.default": tf.nn.silu,
    "hardtanh.default": clamp,
    "clamp.default": clamp,
    "softmax.int": lambda values, axis, *_: tf.nn.softmax(values, axis),
    "to.dtype": lambda values, dtype, *_: tf.cast(values, TYPES[dtype]),
    "ones.default": lambda size, dtype=torch.float32, **_: tf.ones(size, TYPES[dtype]),
    "ones_like.default": lambda values, **_: tf.ones_like(values),
    "zeros_like.default": lambda values, **_: tf.zeros_like(values),
    "full_like.default": lambda values, fill, **_: tf.cast(
        tf.fill(tf.shape(values), fill), values.dtype
    ),
    "arange.default": arange,
    "permute.default": tf.transpose,
    "numpy_T.default": tf.transpose,
    "transpose.int": transpose,
    "unsqueeze.default": tf.expand_dims,
    "flatten.using_ints": flatten,
    "unflatten.int": unflatten,
    "unbind.int": lambda values, axis=0: tf.unstack(values, axis=axis),
    "cat.default": lambda parts, axis=0: tf.concat(parts, axis),
    "flip.default": tf.reverse,
    "index_select.default": lambda values, axis, indices: tf.gather(values, indices, axis=axis),
    "pad.default": pad,
    "sum.dim_IntList": sum_over,
    "mean.dim": lambda values, axes, keepdim=False: tf.reduce_mean(values, axes, keepdims=keepdim),
    "max.default": tf.reduce_max,
    "min.default": tf.reduce_min,
    "max.dim": max_along_axis,
    "matmul.default": tf.matmul,
    "linear.default": linear,
    "conv2d.default": conv2d,
    "batch_norm.default": normalize_batch,
    "group_norm.default": normalize_groups,
    "max_pool2d.default": lambda *args: pool2d("MAX", *args),
    "avg_pool2d.default": lambda *args: pool2d("AVG", *args),
    "adaptive_avg_pool2d.default": adaptive_avg_pool2d,
    "dropout.default": _identity,
    "detach.default": _identity,
    "detach_.default": _identity,
    "lift_fresh_copy.default": _identity,
    "_assert_tensor_metadata.default": _identity,
}

"""torch's operations in TensorFlow's: what a traced graph needs to be computed there.

Values are laid out as in torch, N,C,H,W. Around convolutions and pooling, which TensorFlow computes
on a CPU as N,H,W,C only, they are turned.
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

Tensor = Any  # TensorFlow has no types of its own that mypy can read


def unknown(operation: str) -> UserError:
    """The error for what is not known here."""
    return UserError(
        f"--format tensorflow does not know torch's operation {operation}: use --format onnx."
    )


def alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers or tensors in one type, by torch's rule: what has no axes takes the type of what
    has some.
    """
    if not (tf.is_tensor(first) or tf.is_tensor(second)):
        return first, second
    ranks = [each.shape.rank if tf.is_tensor(each) else -1 for each in (first, second)]
    if min(ranks) > 0 or ranks[0] == ranks[1]:
        wide = max(first.dtype, second.dtype, key=lambda dtype: (dtype.is_floating, dtype.size))
    else:
        wide = (first if ranks[0] > ranks[1] else second).dtype
    return tf.cast(first, wide), tf.cast(second, wide)


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda first, second: compute(*alike(first, second))


def _inside_out(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """N,C,H,W -> N,C',H',W' by way of N,H,W,C."""
    return tf.transpose(compute(tf.transpose(images, (0, 2, 3, 1))), (0, 3, 1, 2))


def _pairs(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
    """`aten.conv2d`: weight C',C/groups,h,w; rest: stride, padding, dilation, groups."""
    settings: list[Any] = [1, 0, 1, 1]
    settings[: len(rest)] = rest
    stride, padding, dilation, groups = settings
    strides, (rows, columns), dilations = _pairs(stride), _pairs(padding), _pairs(dilation)
    kernel = tf.transpose(weight, (2, 3, 1, 0))
    channels = images.shape[1]
    depthwise = groups == channels == weight.shape[0]

    def _compute(inside: Tensor) -> Tensor:
        if rows or columns:
            inside = tf.pad(inside, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
        if depthwise and groups > 1:
            each = tf.transpose(kernel, (0, 1, 3, 2))
            return tf.nn.depthwise_conv2d(
                inside, each, (1, *strides, 1), "VALID", dilations=dilations
            )
        return tf.nn.conv2d(inside, kernel, strides, "VALID", dilations=dilations)

    found = _inside_out(_compute, images)
    return found if bias is None else found + tf.reshape(bias, (1, -1, 1, 1))


def normalize_batch(
    images: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *rest: Any
) -> Tensor:
    """`aten.batch_norm` as it predicts; rest: training, momentum, eps, cudnn."""
    scale = weight * tf.math.rsqrt(variance + rest[2])
    along = (1, -1, *(1 for _ in range(images.shape.rank - 2)))
    return images * tf.reshape(scale, along) + tf.reshape(bias - mean * scale, along)


def normalize_groups(
    images: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *_: Any
) -> Tensor:
    """`aten.group_norm`."""
    shape = tf.shape(images)
    grouped = tf.reshape(images, (shape[0], groups, -1))
    mean, variance = tf.nn.moments(grouped, [2], keepdims=True)
    normal = tf.reshape((grouped - mean) * tf.math.rsqrt(variance + eps), shape)
    return normal * tf.reshape(weight, (1, -1, 1, 1)) + tf.reshape(bias, (1, -1, 1, 1))


def pool(
    kind: str, images: Tensor, size: Any, stride: Any = (), padding: Any = 0, *rest: Any
) -> Tensor:
    """`aten.max_pool2d` and `aten.avg_pool2d`, whose averages leave padding out.

    rest: of the first dilation and ceil_mode, of the second ceil_mode, count_include_pad and
        divisor.
    """
    sizes, (rows, columns) = _pairs(size), _pairs(padding)
    strides = _pairs(stride) if stride else sizes
    ceil = any(rest[1:2] if kind == "MAX" else rest[:1])
    if kind == "AVG" and (rows or columns) and all(rest[1:2]):
        raise unknown("avg_pool2d that counts its padding")

    def _compute(inside: Tensor) -> Tensor:
        margins = []
        for axis, (length, step, margin) in enumerate(
            zip(sizes, strides, (rows, columns), strict=True)
        ):
            over = inside.shape[axis + 1] + 2 * margin - length
            margins.append((margin, margin + (-over % step if ceil else 0)))
        if not any(map(any, margins)):
            return tf.nn.pool(inside, sizes, kind, strides, "VALID")
        around = ((0, 0), *margins, (0, 0))
        if kind == "MAX":
            return tf.nn.pool(
                tf.pad(inside, around, constant_values=inside.dtype.min),
                sizes,
                kind,
                strides,
                "VALID",
            )
        sums = tf.nn.pool(tf.pad(inside, around), sizes, kind, strides, "VALID")
        return sums / tf.nn.pool(
            tf.pad(tf.ones_like(inside), around), sizes, kind, strides, "VALID"
        )

    return _inside_out(_compute, images)


def pad(
    values: Tensor, margins: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """`aten.pad`: margins from the last axis on."""
    if mode != "constant":
        raise unknown(f"pad with mode {mode}")
    pairs = list(zip(margins[::2], margins[1::2], strict=True))[::-1]
    whole = [(0, 0)] * (values.shape.rank - len(pairs)) + pairs
    return tf.pad(values, whole, constant_values=value or 0)


def sum_over(
    values: Tensor, axes: Sequence[int], keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """`aten.sum`."""
    return tf.reduce_sum(
        values if dtype is None else tf.cast(values, TYPES[dtype]), axes, keepdims=keepdim
    )


def flatten(values: Tensor, start: int = 0, end: int = -1) -> Tensor:
    """`aten.flatten`."""
    rank = values.shape.rank
    first, last = start % rank, end % rank
    shape = tf.shape(values)
    return tf.reshape(values, tf.concat([shape[:first], [-1], shape[last + 1 :]], 0))


def unflatten(values: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """`aten.unflatten`."""
    axis %= values.shape.rank
    shape = tf.shape(values)
    return tf.reshape(
        values, tf.concat([shape[:axis], tf.stack(list(sizes)), shape[axis + 1 :]], 0)
    )


def clamp(values: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """`aten.clamp`."""
    values = values if low is None else tf.maximum(*alike(values, low))
    return values if high is None else tf.minimum(*alike(values, high))


def swap(values: Tensor, first: int, second: int) -> Tensor:
    """`aten.transpose`."""
    axes = list(range(values.shape.rank))
    axes[first], axes[second] = axes[second], axes[first]
    return tf.transpose(values, axes)


def largest(values: Tensor, axis: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """`aten.max.dim`."""
    return tf.reduce_max(values, axis, keepdims=keepdim), tf.argmax(values, axis)


def transform(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`aten.linear`."""
    found = tf.matmul(values, weight, transpose_b=True)
    return found if bias is None else found + bias


def pool_to_one(images: Tensor, size: Any) -> Tensor:
    """`aten.adaptive_avg_pool2d` to 1 x 1, the only size that our networks ask for."""
    if _pairs(size) != (1, 1):
        raise unknown(f"adaptive_avg_pool2d to {size}")
    return tf.reduce_mean(images, (2, 3), keepdims=True)


def arrange(end: Any, **kwargs: Any) -> Tensor:
    """`aten.arange` from 0."""
    return tf.cast(tf.range(end), TYPES[kwargs.get("dtype") or torch.int64])


def _same(values: Tensor, *_: Any, **__: Any) -> Tensor:
    return values


OPERATIONS: dict[str, Callable[..., Any]] = {
    "sym_size.int": lambda values, axis: tf.shape(values)[axis],
    "add.Tensor": lambda first, second, alpha=1: tf.add(
        *alike(first, second if alpha == 1 else second * alpha)
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
    "rsub.Scalar": lambda first, second: tf.subtract(*alike(second, first)),
    "addcmul.default": lambda values, first, second: values + first * second,
    "__and__.Tensor": tf.logical_and,
    "where.self": lambda condition, first, second: tf.where(condition, *alike(first, second)),
    "abs.default": tf.abs,
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
    "arange.default": arrange,
    "permute.default": tf.transpose,
    "numpy_T.default": tf.transpose,
    "transpose.int": swap,
    "unsqueeze.default": tf.expand_dims,
    "flatten.using_ints": flatten,
    "unflatten.int": unflatten,
    "unbind.int": lambda values, axis=0: tf.unstack(values, axis=axis),
    "cat.default": lambda parts, axis=0: tf.concat(parts, axis),
    "index_select.default": lambda values, axis, places: tf.gather(values, places, axis=axis),
    "pad.default": pad,
    "sum.dim_IntList": sum_over,
    "mean.dim": lambda values, axes, keepdim=False: tf.reduce_mean(values, axes, keepdims=keepdim),
    "max.default": tf.reduce_max,
    "min.default": tf.reduce_min,
    "max.dim": largest,
    "matmul.default": tf.matmul,
    "linear.default": transform,
    "conv2d.default": convolve,
    "batch_norm.default": normalize_batch,
    "group_norm.default": normalize_groups,
    "max_pool2d.default": lambda *args: pool("MAX", *args),
    "avg_pool2d.default": lambda *args: pool("AVG", *args),
    "adaptive_avg_pool2d.default": pool_to_one,
    "dropout.default": _same,
    "detach.default": _same,
    "detach_.default": _same,
    "lift_fresh_copy.default": _same,
    "_assert_tensor_metadata.default": _same,
}

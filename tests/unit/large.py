"""Networks without the seconds that VGG16's own classifier takes, which no learner keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

LARGE = 10_000_000  # numbers in a tensor; the largest of a base's stages has 2.4 million


@contextmanager
def no_large_init() -> Iterator[None]:
    """Leave tensors with more than LARGE numbers as they were allocated."""
    with (
        patch.object(nn.init, "normal_", _skip(nn.init.normal_)),
        patch.object(nn.init, "kaiming_uniform_", _skip(nn.init.kaiming_uniform_)),
    ):
        yield


def _skip(init: Any) -> Any:
    def fill(tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        return tensor if tensor.numel() > LARGE else init(tensor, *given, **named)

    return fill

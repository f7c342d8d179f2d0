"""Fitted estimators as torch modules: all that was learned is tensors, so nothing is ever
pickled.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

S = TypeVar("S", bound="TensorModule")


class TensorModule(nn.Module):
    """A module whose tensors are given, whatever their shapes."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        # what decides how is computed, read once: a graph cannot ask a tensor for it
        self.numbers = dict[str, int]()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
            if not tensor.ndim and not tensor.is_floating_point():
                self.numbers[name] = int(tensor)

    @classmethod
    def restore(cls: type[S], prefix: str, tensors: dict[str, Tensor]) -> S:
        """The module from those of `tensors` whose names begin with `prefix` and a dot. Raises
        TypeError, KeyError.
        """
        own = {
            name.removeprefix(f"{prefix}."): t
            for name, t in tensors.items()
            if name.startswith(f"{prefix}.")
        }
        return cls(**own)

    def tensor(self, name: str) -> Tensor:
        """One of the tensors, by name."""
        found: Tensor = self.get_buffer(name)
        return found

"""Fitted estimators as torch modules: all learned state is tensors, so nothing is pickled."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

S = TypeVar("S", bound="TensorModule")


class TensorModule(nn.Module):
    """Module with tensors of any shapes as buffers.

    `numbers` has the values of scalar integer buffers by name.
    """

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        # read once as Python values: control flow on tensor values cannot be exported
        self.numbers = dict[str, int]()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
            if not tensor.ndim and not tensor.is_floating_point():
                self.numbers[name] = int(tensor)

    @classmethod
    def restore(cls: type[S], prefix: str, tensors: dict[str, Tensor]) -> S:
        """Return a module with those of `tensors` whose names begin with `prefix` and a dot.

        Missing tensors are not detected here, but raise AttributeError or KeyError in `forward`.

        Raises:
            KeyError, TypeError: a name cannot be used for a buffer.
        """
        selected = {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}.")
        }
        return cls(**selected)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by name; raise AttributeError if it does not exist."""
        return self.get_buffer(name)

"""TorchScript format, for programs that do not support PT2 yet."""

from __future__ import annotations

from pathlib import Path

from eyevsai.formats.base import ExportSource, Format, Runtime
from eyevsai.formats.pt2 import TorchRuntime
from eyevsai.formats.tracing import EXAMPLE, suppress_warnings

MODEL = "model.pt"


class TorchScript(Format):
    """TorchScript export of a network. torch has deprecated the format in favor of PT2."""

    name = "torchscript"
    networks_only = True
    can_hold_code = True

    def write(self, source: ExportSource, folder: Path) -> None:
        """Trace the inference module and write it to `model.pt`."""
        import torch

        with suppress_warnings(), torch.no_grad():
            traced = torch.jit.trace(
                source.learner.inference_module(),
                torch.zeros(EXAMPLE, dtype=torch.uint8),
                check_trace=False,
            )
            traced.save(str(folder / MODEL))

    def open(self, folder: Path) -> Runtime:
        """Load the traced module on the CPU."""
        import torch

        with suppress_warnings():
            return TorchRuntime(torch.jit.load(str(folder / MODEL), map_location="cpu").eval())

"""TorchScript, which torch keeps for the programs that still open it."""

from __future__ import annotations

from pathlib import Path

from eyevsai.formats.base import ExportSource, Format, Runtime
from eyevsai.formats.pt2 import TorchRuntime
from eyevsai.formats.tracing import EXAMPLE, quietly

MODEL = "model.pt"


class TorchScript(Format):
    """For networks. Legacy: torch names pt2 as its successor."""

    name = "torchscript"
    networks_only = True
    can_hold_code = True

    def write(self, source: ExportSource, folder: Path) -> None:
        """Trace the inference module and write it."""
        import torch

        with quietly(), torch.no_grad():
            traced = torch.jit.trace(
                source.learner.inference_module(),
                torch.zeros(EXAMPLE, dtype=torch.uint8),
                check_trace=False,
            )
            traced.save(str(folder / MODEL))

    def open(self, folder: Path) -> Runtime:
        """Load the traced module on the CPU."""
        import torch

        with quietly():
            return TorchRuntime(torch.jit.load(str(folder / MODEL), map_location="cpu").eval())

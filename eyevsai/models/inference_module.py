"""Complete classifier as one torch module, from raw pixels to probabilities, for export."""

from __future__ import annotations

from torch import Tensor, nn

from eyevsai.data.exportable_resize import ExportableResize
from eyevsai.data.preprocessing import Preprocessing


class InferenceModule(nn.Module):
    """Resize, crop and classifier in one module.

    Input: N,H,W,3 uint8 RGB of any H and W; output: N,C float32 probabilities. `classify` maps
    crops N,S,S,3 uint8 to the probabilities.
    """

    def __init__(self, preprocessing: Preprocessing, classify: nn.Module) -> None:
        super().__init__()
        self.resizing = ExportableResize(preprocessing)
        self.classify = classify

    def forward(self, images: Tensor) -> Tensor:
        """Return the N,C float32 probabilities of N,H,W,3 uint8 images."""
        probabilities: Tensor = self.classify(self.resizing(images))
        return probabilities

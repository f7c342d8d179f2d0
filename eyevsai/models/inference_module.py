"""A whole classifier as one torch module, from raw pixels to probabilities: what leaves for other
runtimes.
"""

from __future__ import annotations

from torch import Tensor, nn

from eyevsai.data.exportable_resize import ExportableResize
from eyevsai.data.preprocessing import Preprocessing


class InferenceModule(nn.Module):
    """From N,H,W,3 uint8 of one size, any one, to N,C float32 probabilities; `classify` takes crops
    N,S,S,3 uint8.
    """

    def __init__(self, preprocessing: Preprocessing, classify: nn.Module) -> None:
        super().__init__()
        self.resizing = ExportableResize(preprocessing)
        self.classify = classify

    def forward(self, images: Tensor) -> Tensor:
        """Resize, crop, classify."""
        probabilities: Tensor = self.classify(self.resizing(images))
        return probabilities

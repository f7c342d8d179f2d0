"""Six statistics of an image, which explain a drift: darker, blurred, bluer than the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Statistics = npt.NDArray[np.float32]  # N,6, in the order of `STATISTICS`

# names, each with the words for a lower and a higher value
STATISTICS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("less contrast", "more contrast"),
    "sharpness": ("blurred", "sharper or noisier"),
    "saturation": ("less saturated", "more saturated"),
    "red_minus_blue": ("bluer", "redder"),
    "aspect": ("taller", "wider"),
}

_LUMA = tuple(np.float32(weight) for weight in (0.299, 0.587, 0.114))  # ITU-R BT.601


def measure_image(image: npt.NDArray[np.uint8], aspect: float) -> npt.NDArray[np.float32]:
    """Return the six statistics of one image, float32, in the order of `STATISTICS`.

    brightness is the mean and contrast the standard deviation of the luma, in 0..1; sharpness is
    log(1 + variance of the Laplacian of the luma), which is low for blurred and high for noisy
    images; saturation is the mean of (max - min) / max over the channels, 0..1; red_minus_blue is
    the difference of the mean channels, -1..1.

    Args:
        image: H,W,3 uint8 RGB, resized for the model, since sharpness depends on the size; H and W
            at least 3.
        aspect: width / height of the original image.
    """
    # contiguous planes: several times faster than strided channels
    red, green, blue = np.ascontiguousarray(image.transpose(2, 0, 1))
    luma = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1]
    laplacian += luma[1:-1, :-2]
    laplacian += luma[1:-1, 2:]
    laplacian -= 4 * luma[1:-1, 1:-1]
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    saturation = (high - low) / np.maximum(high, 1).astype(np.float32)
    values = (
        luma.mean() / 255,
        luma.std() / 255,
        np.log1p(laplacian.var()),
        saturation.mean(),
        (red.mean() - blue.mean()) / 255,
        aspect,
    )
    return np.array(values, dtype=np.float32)

"""Decoding of images, which is inserted into the example of each format."""

import numpy as np
from PIL import Image

TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Image.Transpose


def decode(path, depth):
    """Return an image file as H,W,3 uint8 RGB, decoded as in training.

    The EXIF orientation is applied, transparency is composited over white, and values with more
    than 8 bits are scaled to 0..255 by `depth`.
    """
    image = Image.open(path)
    image.load()
    white_is_zero = getattr(image, "tag_v2", {}).get(0x0106) == 0
    try:
        turn = TURNS.get(image.getexif().get(0x0112))
    except Exception:  # the EXIF block is invalid
        turn = None
    if turn is not None:
        image = image.transpose(Image.Transpose(turn))
    if image.mode.startswith("I") or image.mode == "F":
        white = depth["float_top" if image.mode == "F" else "integer_top"]
        levels = np.nan_to_num(
            np.asarray(image).astype(np.float64), nan=0.0, posinf=white, neginf=0.0
        )
        grey = np.clip(np.round(levels * (255.0 / white)), 0, 255).astype(np.uint8)
        if white_is_zero:
            grey = 255 - grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))

"""Image sets for benchmarks of duplicate detection: copies, and similar images without copies."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any


def describe(label: str, picture):  # type: ignore[no-untyped-def]
    """Return label, check result and thumbnail of a decoded picture, H,W,3 uint8."""
    from eyevsai.data.duplicates import make_thumbnail
    from eyevsai.data.image_checks import ImageInfo, _signature, hash_pixels

    pixels = hash_pixels(picture)
    record = ImageInfo(pixels, pixels, _signature(picture), picture.shape[1], picture.shape[0])
    return label, record, make_thumbnail(picture)


def find(described, mode: str = "near"):  # type: ignore[no-untyped-def]
    """Return the duplicates among described pictures, and the seconds of the search."""
    from eyevsai.data.duplicates import find_duplicates

    labels, records, thumbnails = zip(*described, strict=True)
    start = time.perf_counter()
    result = find_duplicates(records, labels, lambda index: thumbnails[index], mode)
    return result, time.perf_counter() - start


def count_false(described, result) -> int:  # type: ignore[no-untyped-def]
    """Return the number of images that are grouped with an image of other pixels."""
    return len({record.pixels for _, record, _ in described}) - len(set(result.groups))


def copies(image):  # type: ignore[no-untyped-def]
    """Return six copies of a picture: resized, recompressed, or both."""
    from PIL import Image

    resized = [
        image.resize((round(image.width * s), round(image.height * s)), 1) for s in (0.5, 0.75, 1.6)
    ]
    recompressed = [(image, 40), (image, 70), (resized[0], 60)]
    compressed = [Image.fromarray(_compress(picture, quality)) for picture, quality in recompressed]
    return [*compressed[:2], *resized, compressed[2]]


Labelled = Iterator[tuple[str, Any]]  # class and H,W,3 uint8


def _compress(image, quality: int):  # type: ignore[no-untyped-def]
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def draw_camera(count: int = 500) -> Labelled:
    """Yield frames of one scene with varying light and noise; those of `defect` have a scratch."""
    import numpy as np
    from PIL import Image, ImageDraw

    scene = np.random.default_rng(5).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(scene).resize((256, 256), 3))
    for number in range(count):
        random = np.random.default_rng(1000 + number)
        light, noise = random.uniform(0.9, 1.1), random.normal(0, 6, (256, 256, 3))
        frame = Image.fromarray((scene * light + noise).clip(0, 255).astype(np.uint8))
        if number % 2:
            x, y = random.integers(60, 180, 2)
            ImageDraw.Draw(frame).line([x, y, x + 30, y + 20], fill=(255, 255, 255), width=4)
        yield ("defect" if number % 2 else "good"), _compress(frame, 92)


def draw_pan(step: int, smoothness: float, count: int = 500) -> Labelled:
    """Yield frames of 192 px of a camera that moves `step` px per frame across a random picture.

    The picture's amplitude spectrum is 1 / f^smoothness, similar to that of photographs.
    """
    import numpy as np
    from PIL import Image

    height, width = 256, 192 + count * step
    rows, columns = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    frequency = np.maximum(np.hypot(rows, columns), 1 / height)
    random = np.random.default_rng(7)
    spectra = random.normal(size=(2, 3, *frequency.shape)) / frequency**smoothness
    large = np.fft.irfft2(spectra[0] + 1j * spectra[1], (height, width)).transpose(1, 2, 0)
    large = (128 + 50 * (large - large.mean()) / large.std()).clip(0, 255).astype(np.uint8)
    for number in range(count):
        frame = large[20:212, number * step : number * step + 192]
        yield ("late" if number >= count // 2 else "early"), _compress(Image.fromarray(frame), 90)


def draw_icons(count: int = 500, side: int = 256) -> Labelled:
    """Yield icons with the same frame and different small glyphs of 5 x 5 squares."""
    import numpy as np
    from PIL import Image, ImageDraw

    for number in range(count):
        image = Image.new("RGB", (side, side), (240, 240, 240))
        draw = ImageDraw.Draw(image)
        edge = side // 20
        box = (edge, edge, side - edge, side - edge)
        draw.rounded_rectangle(box, side // 8, fill=(40, 90, 160), outline=(10, 20, 40), width=edge)
        code = (number * 2_654_435_761) % 2**25
        square, start = side // 32, side // 2 - 5 * (side // 32) // 2
        for bit in range(25):
            if code >> bit & 1:
                x, y = start + bit % 5 * square, start + bit // 5 * square
                draw.rectangle((x, y, x + square - 1, y + square - 1), fill=(250, 210, 60))
        yield f"glyph_{number % 10}", np.asarray(image)


def draw_colours(count: int = 500, classes: int = 5) -> Labelled:
    """Yield one texture in the hue of each class, with random variation of hue and noise."""
    import colorsys

    import numpy as np
    from PIL import Image

    cells = np.random.default_rng(3).integers(0, 255, (12, 12), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(cells).resize((128, 128), 3))[..., None] / 255
    for number in range(count):
        random = np.random.default_rng(3000 + number)
        hue = (number % classes / classes + random.normal(0, 0.01)) % 1
        picture = 255 * (0.35 + 0.65 * texture) * np.array(colorsys.hsv_to_rgb(hue, 0.7, 0.9))
        yield (
            f"hue_{number % classes}",
            (picture + random.normal(0, 2, (128, 128, 3))).clip(0, 255).astype(np.uint8),
        )


def draw_characters(count: int = 744, side: int = 64) -> Labelled:
    """Yield letters and digits in nine fonts, with random sizes and positions."""
    import string

    import matplotlib
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSerif",
        "DejaVuSansMono",
        "DejaVuSans-Oblique",
        "STIXGeneral",
        "cmr10",
        "cmss10",
        "",
    )
    characters = string.ascii_letters + string.digits
    for number in range(count):
        random = np.random.default_rng(4000 + number)
        size = side * random.uniform(0.45, 0.7)
        name = names[number // len(characters) % len(names)]
        font = (
            ImageFont.truetype(str(folder / f"{name}.ttf"), size)
            if name
            else ImageFont.load_default(size)
        )
        image = Image.new("RGB", (side, side), "white")
        position = side / 2 + random.uniform(-0.06, 0.06, 2) * side
        character = characters[number % len(characters)]
        ImageDraw.Draw(image).text(tuple(position), character, font=font, fill="black", anchor="mm")
        yield character, np.asarray(image)


# Sets of similar images without copies, by name. Each function takes the number of images.
SIMILAR_SETS: dict[str, Callable[..., Labelled]] = {
    "fixed camera": draw_camera,
    "slow pan, smooth": partial(draw_pan, 1, 1.7),
    "slow pan": partial(draw_pan, 1, 1.3),
    "pan, smooth": partial(draw_pan, 2, 1.7),
    "pan": partial(draw_pan, 2, 1.3),
    "icons, 256 px": draw_icons,
    "icons, 96 px": partial(draw_icons, side=96),
    "colours": draw_colours,
    "colours, 25 classes": partial(draw_colours, classes=25),
    "characters, 64 px": draw_characters,
    "characters, 128 px": partial(draw_characters, side=128),
}

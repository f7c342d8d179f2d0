"""The embedded default dataset: scikit-learn's handwritten digits as an image folder."""

from __future__ import annotations

from pathlib import Path

from eyevsai.core.atomic_dir import atomic_output_dir


def write_digits(cache_dir: Path) -> Path:
    """Return the folder `cache_dir/digits` with 1,797 PNG files of 8 x 8 pixels in ten class
    folders.

    Write it once, under another name first, so that a folder of this name is always whole.

    Raises:
        UserError: when the folder cannot be written.
    """
    folder = cache_dir / "digits"
    if folder.is_dir():
        return folder
    with atomic_output_dir(folder, "--cache-dir") as building:
        try:
            _write_images(building)
            building.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same images
                raise
    return folder


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    levels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # N,8,8 uint8
    for name in map(str, digits.target_names):
        (folder / name).mkdir()
    for number, (image, label) in enumerate(zip(levels, digits.target, strict=True)):
        Image.fromarray(image).save(folder / str(digits.target_names[label]) / f"{number:04d}.png")

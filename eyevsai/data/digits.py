"""The embedded default dataset: scikit-learn's handwritten digits as an image folder."""

from __future__ import annotations

from pathlib import Path

from eyevsai.core.atomic_dir import atomic_output_dir


def write_digits(cache_dir: Path) -> Path:
    """Write the embedded dataset to `cache_dir/digits` unless it exists, and return the folder.

    It has ten class folders with 1,797 PNG files of 8 x 8 pixels. It is written under a temporary
    name and renamed at the end, so that it is never incomplete.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = cache_dir / "digits"
    if folder.is_dir():
        return folder
    with atomic_output_dir(folder, "--cache-dir") as building:
        try:
            _write_images(building)
            building.rename(folder)
        except OSError:
            # if the folder exists now, another process has written the same images meanwhile
            if not folder.is_dir():
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

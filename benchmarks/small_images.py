"""Accuracy on small images: `eyevsai train --minutes N` on files of 32 px.

`EYEVSAI_MODELS=deep_v1,deep_v2/resnet` and `EYEVSAI_MINUTES=2,5` select models and times;
`EYEVSAI_OPTIONS="--crop-scale 0.35 --batch-size 64"` has more options of `train`. The cache is
empty at the start of each training.

`EYEVSAI_IMAGES` selects the images:
    fashion      70,000 of Fashion-MNIST, from Debian's package dataset-fashion-mnist, enlarged from
                 28 px; the default
    photographs  the photographs of all datasets, whose centre squares are shrunk
"""

from __future__ import annotations

import gzip
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.peers.accuracy import select_minutes
from benchmarks.photographs import PHOTOS, are_missing

SOURCE = Path("/usr/share/datasets/fashion-mnist")
SPLITS = {"train": "train", "test": "t10k"}
SIDE, SIZE = 28, 32  # px; of the images in the package, and of the files
IMAGE_HEADER, LABEL_HEADER = 16, 8  # bytes


def read(name: str, header: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of one compressed file of the package, after its header."""
    with gzip.open(SOURCE / name) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def write_fashion(folder: Path) -> bool:
    """Write Fashion-MNIST into `train` and `test` with class folders.

    Returns False, and prints a note, if the package is missing.
    """
    if not SOURCE.is_dir():
        print(f"skipped: {SOURCE} is missing. Install Debian's package dataset-fashion-mnist.")
        return False
    from PIL import Image

    for split, prefix in SPLITS.items():
        images = read(f"{prefix}-images-idx3-ubyte.gz", IMAGE_HEADER).reshape(-1, SIDE, SIDE)
        labels = read(f"{prefix}-labels-idx1-ubyte.gz", LABEL_HEADER)
        for label in np.unique(labels):
            (folder / split / f"class_{label}").mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            picture = Image.fromarray(image).convert("RGB")
            picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            picture.save(folder / split / f"class_{label}" / f"{number:05d}.png", compress_level=1)
    return True


def write_photographs(folder: Path) -> bool:
    """Write the shrunk photographs into class folders.

    Returns False, and prints a note, if the photographs are missing.
    """
    from PIL import Image

    if are_missing():
        return False
    for source in sorted(PHOTOS.glob("*/*/*.jpg")):
        picture = Image.open(source).convert("RGB")
        side = min(picture.size)
        x, y = ((length - side) // 2 for length in picture.size)
        square = picture.crop((x, y, x + side, y + side))
        target = folder / source.parent.name / f"{source.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        square.resize((SIZE, SIZE), Image.Resampling.BOX).save(target)
    return True


WRITERS = {"fashion": write_fashion, "photographs": write_photographs}


def train(data: Path, model: str, minutes: float, options: list[str]) -> str:
    """Train in a new folder with an empty cache; return valid accuracy, epochs and seconds."""
    command = f"-m eyevsai train --data {data} --model {model} --minutes {minutes:g}".split()
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "EYEVSAI_CACHE": f"{folder}/cache"}
        process = subprocess.run(
            [sys.executable, *command, *options],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
        )
    if process.returncode:
        raise SystemExit(process.stderr)
    text = process.stdout + process.stderr
    (result,) = re.findall(r"^valid accuracy (.*)$", text, re.MULTILINE)
    epochs = len(re.findall(r"^epoch \d+ ", text, re.MULTILINE))
    return f"{model}, {minutes:g} min: {epochs} epochs, valid accuracy {result}"


def main() -> None:
    """Write the images, and train the selected models for the selected times."""
    images = os.environ.get("EYEVSAI_IMAGES", "fashion")
    if images not in WRITERS:
        raise SystemExit(f"EYEVSAI_IMAGES={images} is invalid. Use {' or '.join(WRITERS)}.")
    models = os.environ.get("EYEVSAI_MODELS", "deep_v1").split(",")
    minutes = select_minutes(os.environ.get("EYEVSAI_MINUTES", "5"))
    options = shlex.split(os.environ.get("EYEVSAI_OPTIONS", ""))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / images
        if not WRITERS[images](data):
            return
        for model in models:
            for each in minutes:
                print(train(data, model, each, options), flush=True)

"""Reading datasets: how fast, how true, and how it grows.

speed       the first and the second look at the photographs: limits 20 s and 1 s
decoding    building the pixel cache against plain Pillow, which decodes and resizes to the same size on
            two processes: at least 90 %
duplicates  resized and recompressed copies of 600 photographs found among all: at least 95 %, with at
            most 0.1 % of photographs grouped without copies, in less than 1 s; no image grouped in sets of
            similar images that are no copies: camera frames, icons, colours, characters
growth      index, cache and one epoch over 1 k to 80 k images: time per image and peak memory stay flat

EYEVSAI_BENCHMARK_PARTS="decoding growth" runs only those.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.photographs import PHOTOS, are_missing

SIZE, SHORT_SIDE = 64, 74
GROWTH = (1_000, 5_000, 20_000, 80_000)


def _settings(cache: str, **where: Any):  # type: ignore[no-untyped-def]
    from eyevsai.data.settings import DataSettings

    return DataSettings(cache_root=cache, **where)


def _photos(cache: str):  # type: ignore[no-untyped-def]
    return _settings(cache, dataset="combined_all", data_root=str(PHOTOS))


def speed() -> None:
    from eyevsai.data.dataset import load_dataset

    with tempfile.TemporaryDirectory() as cache:
        for name, limit in (("first look", 20), ("second look", 1)):
            began = time.perf_counter()
            dataset = load_dataset(_photos(cache))
            seconds = time.perf_counter() - began
            print(f"{name:<12} {len(dataset.items)} photographs in {seconds:5.2f} s   (limit {limit} s)")


def plain_resize(path: str) -> bytes:
    """What a person would write: Pillow, to the same short side."""
    from PIL import Image

    with Image.open(path) as image:
        scale = SHORT_SIDE / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        return image.convert("RGB").resize(size, Image.Resampling.BILINEAR).tobytes()


def decoding() -> None:
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.preprocessing import Preprocessing

    paths = [str(path) for path in sorted(PHOTOS.glob("*/*/*.jpg"))]
    ours, plain = [], []
    with tempfile.TemporaryDirectory() as cache, ProcessPoolExecutor(2) as pool:
        dataset = load_dataset(_photos(cache))
        list(pool.map(plain_resize, paths[:200], chunksize=64))  # the workers are up
        for _ in range(3):
            began = time.perf_counter()
            for _pixels in pool.map(plain_resize, paths, chunksize=64):
                pass
            plain.append(len(paths) / (time.perf_counter() - began))
            with tempfile.TemporaryDirectory() as fresh:
                from dataclasses import replace

                began = time.perf_counter()
                replace(dataset, cache_root=Path(fresh)).open(Preprocessing(SIZE))
                ours.append(len(paths) / (time.perf_counter() - began))
    rates = statistics.median(ours), statistics.median(plain)
    print(f"cache {rates[0]:.0f} images/s, plain Pillow on two processes {rates[1]:.0f}")
    print(f"ours / plain  {rates[0] / rates[1]:.2f}   (limit 0.90)")


def duplicates() -> None:
    import numpy as np
    from PIL import Image

    from eyevsai.data.decode import decode

    paths = sorted(PHOTOS.glob("*/*/*.jpg"))
    photographs = [describe(path.parent.name, decode(path)) for path in paths]
    chosen = sorted(np.random.default_rng(0).choice(len(paths), 600, replace=False).tolist())
    made, origin = [], []
    for place in chosen:
        for copy in _copies(Image.fromarray(decode(paths[place]))):
            made.append(describe(paths[place].parent.name, np.asarray(copy)))
            origin.append(place)
    groups = find(photographs + made)[0].groups
    found = np.mean([groups[len(paths) + n] == groups[place] for n, place in enumerate(origin)])
    print(f"{len(made)} copies: {found:.2%} found   (limit 95 %)")
    alone, seconds = find(photographs)
    flagged = count_false(photographs, alone)
    print(f"{len(paths)} photographs: {flagged} = {flagged / len(paths):.3%} grouped, "
          f"{len(alone.conflicts)} conflicts   (limit 0.1 %)")  # fmt: skip
    print(f"{len(paths)} photographs: grouped in {seconds:.2f} s with thumbnails at hand   (limit 1 s)")
    for name, draw in SIMILAR_SETS.items():
        described = [describe(label, picture) for label, picture in draw()]
        result, seconds = find(described)
        print(f"{name:<20}{len(described):>5} images: {count_false(described, result)} grouped, "
              f"{len(result.conflicts)} conflicts, sequences of {[len(s) for s in result.sequences]}, "
              f"{seconds:.2f} s   (limit 0 grouped)")  # fmt: skip


def describe(label: str, picture):  # type: ignore[no-untyped-def]
    """Return label, record and thumbnail of a decoded picture, H,W,3 uint8."""
    from eyevsai.data.audit import Record, _signature, hash_pixels
    from eyevsai.data.duplicates import make_thumbnail

    pixels = hash_pixels(picture)
    record = Record(pixels, pixels, _signature(picture), picture.shape[1], picture.shape[0])
    return label, record, make_thumbnail(picture)


def find(described, mode: str = "near"):  # type: ignore[no-untyped-def]
    """Return the duplicates among described pictures, and the seconds that it took to find them."""
    from eyevsai.data.duplicates import find_duplicates

    labels, records, thumbnails = zip(*described, strict=True)
    began = time.perf_counter()
    result = find_duplicates(records, labels, lambda place: thumbnails[place], mode)
    return result, time.perf_counter() - began


def count_false(described, found) -> int:  # type: ignore[no-untyped-def]
    """Return how many images are grouped with one that they do not equal."""
    return len({record.pixels for _, record, _ in described}) - len(set(found.groups))


def _copies(image):  # type: ignore[no-untyped-def]
    from PIL import Image

    resized = [image.resize((round(image.width * s), round(image.height * s)), 1) for s in (0.5, 0.75, 1.6)]
    recompressed = [(image, 40), (image, 70), (resized[0], 60)]
    worse = [Image.fromarray(_compress(picture, quality)) for picture, quality in recompressed]
    return [*worse[:2], *resized, worse[2]]


Labelled = Iterator[tuple[str, Any]]  # class and H,W,3 uint8


def _compress(image, quality: int):  # type: ignore[no-untyped-def]
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def draw_camera(count: int = 500) -> Labelled:
    """Frames of one scene with changing light and noise; a scratch tells `defect` from `good`."""
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
    """Frames of 192 px, each `step` px further across a picture with the spectrum of photographs: 1 / f^smoothness."""
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
    """One frame around small glyphs of 5 x 5 squares, all different."""
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
    """One texture in the hue of each class, with some spread and noise."""
    import colorsys

    import numpy as np
    from PIL import Image

    cells = np.random.default_rng(3).integers(0, 255, (12, 12), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(cells).resize((128, 128), 3))[..., None] / 255
    for number in range(count):
        random = np.random.default_rng(3000 + number)
        hue = (number % classes / classes + random.normal(0, 0.01)) % 1
        picture = 255 * (0.35 + 0.65 * texture) * np.array(colorsys.hsv_to_rgb(hue, 0.7, 0.9))
        yield f"hue_{number % classes}", (picture + random.normal(0, 2, (128, 128, 3))).clip(0, 255).astype(np.uint8)


def draw_characters(count: int = 744, side: int = 64) -> Labelled:
    """Letters and digits in nine fonts, in many sizes and places."""
    import string

    import matplotlib
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Oblique", "STIXGeneral",
             "cmr10", "cmss10", "")  # fmt: skip
    characters = string.ascii_letters + string.digits
    for number in range(count):
        random = np.random.default_rng(4000 + number)
        size = side * random.uniform(0.45, 0.7)
        name = names[number // len(characters) % len(names)]
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), size) if name else ImageFont.load_default(size)
        image = Image.new("RGB", (side, side), "white")
        place = side / 2 + random.uniform(-0.06, 0.06, 2) * side
        character = characters[number % len(characters)]
        ImageDraw.Draw(image).text(tuple(place), character, font=font, fill="black", anchor="mm")
        yield character, np.asarray(image)


# Images that resemble each other and are no copies. Each takes the number of images.
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


def grow(folder: str, cache: str) -> None:
    """One measurement of `growth`, in a process of its own: prints seconds and its peak of memory in MiB.

    Memory is what the process has for itself: the pages of the mapped pixel cache are the kernel's.
    """
    import threading

    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            status = Path("/proc/self/status").read_text()
            peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]) / 1024)

    threading.Thread(target=watch, daemon=True).start()
    from eyevsai.data.dataset import load_dataset
    from eyevsai.models.deep_v1.network import DeepV1Learner
    from eyevsai.models.deep_v1.settings import DeepV1Settings

    times = [time.perf_counter()]
    dataset = load_dataset(_settings(cache, data=folder))
    times.append(time.perf_counter())
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=8, epochs=1), dataset.classes, 0)
    data = dataset.open(learner.preprocessing)
    times.append(time.perf_counter())
    learner.fit(data.train, data.valid, lambda epoch, row: None)
    times.append(time.perf_counter())
    seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
    done.set()
    print(json.dumps([*seconds, peak[0]]))


def growth() -> None:
    print(f"{'images':>8}{'index ms':>10}{'cache ms':>10}{'epoch ms':>10}{'peak MiB':>10}   (ms per image)")
    paths = sorted(PHOTOS.glob("*/*/*.jpg"))
    for count in GROWTH:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "set"
            for number in range(count):
                source = paths[number % len(paths)]
                target = folder / source.parent.name / f"{number}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                _vary(source, target, number)
            code = f"from benchmarks.data import grow; grow({str(folder)!r}, {name + '/cache'!r})"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        *seconds, peak = json.loads(done.stdout.splitlines()[-1])
        print(f"{count:>8}" + "".join(f"{1000 * s / count:>10.2f}" for s in seconds) + f"{peak:>10.0f}", flush=True)


def _vary(source: Path, target: Path, number: int) -> None:
    """A copy that is another picture: two photographs laid over each other, and a crop that moves."""
    from PIL import Image

    with Image.open(source) as image:
        picture = image.convert("RGB").resize((96, 96)).rotate(number % 360, expand=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.crop((10, 10, 86, 86)).save(target, quality=80)


def main() -> None:
    if are_missing():
        return
    chosen = os.environ.get("EYEVSAI_BENCHMARK_PARTS", "speed decoding duplicates growth").split()
    for part in (globals()[name] for name in chosen):
        print(f"### {part.__name__}", flush=True)
        part()

"""Speed of reading datasets, accuracy of duplicate detection, and scaling with the dataset size.

speed       First and second read of the photographs. Limits: 20 s and 1 s.
decoding    Creation of the pixel cache, compared with Pillow, which decodes and resizes to the same
            size in two processes. Limit: at least 90 % of Pillow's speed.
duplicates  Detection of resized and recompressed copies of 600 photographs among all. Limits: at
            least 95 % of the copies; at most 0.1 % of the photographs grouped without copies; less
            than 1 s; no image grouped in sets of similar images that are not copies: camera frames,
            icons, colours, characters.
growth      Index, cache and one epoch of 1,000 to 80,000 images. Time per image and peak memory
            should stay flat.

EYEVSAI_BENCHMARK_PARTS="decoding growth" runs only these parts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.photographs import PHOTOS, are_missing
from benchmarks.similar import SIMILAR_SETS, copies, count_false, describe, find

SIZE, SHORT_SIDE = 64, 74
GROWTH = (1_000, 5_000, 20_000, 80_000)


def _settings(cache: str, **values: Any):  # type: ignore[no-untyped-def]
    from eyevsai.data.settings import DataSettings

    return DataSettings(cache_dir=cache, **values)


def _photos(cache: str):  # type: ignore[no-untyped-def]
    return _settings(cache, dataset="combined_all", data_dir=str(PHOTOS))


def speed() -> None:
    """Print the seconds of the first and the second read of the photographs."""
    from eyevsai.data.dataset import load_dataset

    with tempfile.TemporaryDirectory() as cache:
        for name, limit in (("first read", 20), ("second read", 1)):
            start = time.perf_counter()
            dataset = load_dataset(_photos(cache))
            seconds = time.perf_counter() - start
            print(
                f"{name:<12} {len(dataset.samples)} photographs in {seconds:5.2f} s   (limit "
                f"{limit} s)"
            )


def plain_resize(path: str) -> bytes:
    """Return the pixels of an image, resized by Pillow to the short side `SHORT_SIDE`."""
    from PIL import Image

    with Image.open(path) as image:
        scale = SHORT_SIDE / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        return image.convert("RGB").resize(size, Image.Resampling.BILINEAR).tobytes()


def decoding() -> None:
    """Print the speed of creating the pixel cache and of Pillow, in images per second."""
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.preprocessing import Preprocessing

    paths = [str(path) for path in sorted(PHOTOS.glob("*/*/*.jpg"))]
    ours, plain = [], []
    with tempfile.TemporaryDirectory() as cache, ProcessPoolExecutor(2) as pool:
        dataset = load_dataset(_photos(cache))
        list(pool.map(plain_resize, paths[:200], chunksize=64))  # start the workers
        for _ in range(3):
            start = time.perf_counter()
            for _pixels in pool.map(plain_resize, paths, chunksize=64):
                pass
            plain.append(len(paths) / (time.perf_counter() - start))
            with tempfile.TemporaryDirectory() as fresh:
                from dataclasses import replace

                start = time.perf_counter()
                replace(dataset, cache_dir=Path(fresh)).open(Preprocessing(SIZE))
                ours.append(len(paths) / (time.perf_counter() - start))
    rates = statistics.median(ours), statistics.median(plain)
    print(f"cache {rates[0]:.0f} images/s, Pillow in two processes {rates[1]:.0f}")
    print(f"ours / plain  {rates[0] / rates[1]:.2f}   (limit 0.90)")


def duplicates() -> None:
    """Print the share of detected copies, and the number of images that are grouped wrongly."""
    import numpy as np
    from PIL import Image

    from eyevsai.data.decode import decode

    paths = sorted(PHOTOS.glob("*/*/*.jpg"))
    photographs = [describe(path.parent.name, decode(path)) for path in paths]
    chosen = sorted(np.random.default_rng(0).choice(len(paths), 600, replace=False).tolist())
    copied, originals = [], []
    for index in chosen:
        for copy in copies(Image.fromarray(decode(paths[index]))):
            copied.append(describe(paths[index].parent.name, np.asarray(copy)))
            originals.append(index)
    groups = find(photographs + copied)[0].groups
    recall = np.mean([groups[len(paths) + n] == groups[each] for n, each in enumerate(originals)])
    print(f"{len(copied)} copies: {recall:.2%} found   (limit 95 %)")
    without_copies, seconds = find(photographs)
    flagged = count_false(photographs, without_copies)
    print(
        f"{len(paths)} photographs: {flagged} = {flagged / len(paths):.3%} grouped, "
        f"{len(without_copies.conflicts)} conflicts   (limit 0.1 %)"
    )
    print(
        f"{len(paths)} photographs: grouped in {seconds:.2f} s, without making thumbnails   "
        "(limit 1 s)"
    )
    for name, draw in SIMILAR_SETS.items():
        described = [describe(label, picture) for label, picture in draw()]
        result, seconds = find(described)
        print(
            f"{name:<20}{len(described):>5} images: {count_false(described, result)} grouped, "
            f"{len(result.conflicts)} conflicts, sequences of "
            f"{[len(s) for s in result.sequences]}, {seconds:.2f} s   (limit 0 grouped)"
        )


def grow(folder: str, cache: str) -> None:
    """Print seconds for index, cache and epoch, and peak memory in MiB, as a JSON list.

    `growth` calls this in a new process. Memory is anonymous memory (RssAnon), without the pages of
    the memory-mapped pixel cache, which the kernel can evict.
    """
    import threading

    peak, finished = [0.0], threading.Event()

    def record_peak() -> None:
        while not finished.wait(0.05):
            status = Path("/proc/self/status").read_text()
            peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]) / 1024)

    threading.Thread(target=record_peak, daemon=True).start()
    from eyevsai.data.dataset import load_dataset
    from eyevsai.models.deep_v1.network import DeepV1Learner
    from eyevsai.models.deep_v1.settings import DeepV1Settings

    times = [time.perf_counter()]
    dataset = load_dataset(_settings(cache, data=folder))
    times.append(time.perf_counter())
    learner = DeepV1Learner(
        "standard", DeepV1Settings(image_size=32, width=8, epochs=1), dataset.classes, 0
    )
    data = dataset.open(learner.preprocessing)
    times.append(time.perf_counter())
    learner.fit(data.train, data.valid, lambda epoch, row: None)
    times.append(time.perf_counter())
    seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
    finished.set()
    print(json.dumps([*seconds, peak[0]]))


def growth() -> None:
    """Print time per image and peak memory by the number of images."""
    print(
        f"{'images':>8}{'index ms':>10}{'cache ms':>10}{'epoch ms':>10}{'peak MiB':>10}   (ms "
        "per image)"
    )
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
            process = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
        *seconds, peak = json.loads(process.stdout.splitlines()[-1])
        print(
            f"{count:>8}"
            + "".join(f"{1000 * s / count:>10.2f}" for s in seconds)
            + f"{peak:>10.0f}",
            flush=True,
        )


def _vary(source: Path, target: Path, number: int) -> None:
    """Write a rotated crop of a photograph that is no duplicate of it; `number` sets the angle."""
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

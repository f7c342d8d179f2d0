"""Size and speed of each variation of deep_v1 and deep_v2 with the CPU preset.

Reports parameters, operations, and images per second in training and prediction. `plain` is the
same network in a float32 NCHW loop on one batch in memory. Limit: eyevsai's training step, without
augmentation, is at least twice as fast on a CPU with AVX512-BF16. Single steps are measured
alternately; rates are medians, and the ratio is the median of the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

BATCH, ROUNDS = 64, 21
FAMILIES = ("deep_v1", "deep_v2")


def measure(family: str, variation: str) -> str:
    """Return the row of the table for one network."""
    import torch

    from eyevsai.models.factory import build, get_family
    from eyevsai.training.device import find_precision, setup_device

    settings = get_family(family).variations[variation].settings()
    learner = build(family, variation, settings, tuple(map(str, range(60))), seed=0)
    summary = learner.summary()
    precision = find_precision("auto", setup_device(settings))  # type: ignore[arg-type]
    size = learner.preprocessing.image_size
    images = torch.randn(BATCH, 3, size, size)
    labels = torch.randint(0, 60, (BATCH,))
    step = _step(learner, images.contiguous(memory_format=torch.channels_last), labels, precision)
    plain = _step(
        build(family, variation, settings, learner.classes, seed=0), images, labels, torch.float32
    )
    pixels = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8).numpy()
    rates: dict[str, list[float]] = {"ours": [], "plain": [], "predict": []}
    works: dict[str, Callable[[], object]]
    works = {"ours": step, "plain": plain, "predict": lambda: learner.predict_proba(pixels)}
    for work in works.values():
        work()
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            rates[name].append(BATCH / (time.perf_counter() - start))
    median = {name: statistics.median(values) for name, values in rates.items()}
    size_text = (
        f"{family}/{variation:<10}{size:>4} "
        f"px{summary.parameters:>12,}{(summary.flops or 0) / 1e6:>10.1f}"
    )
    ratio = statistics.median(
        ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)
    )
    rates_text = f"{median['ours']:>9.1f}{median['plain']:>9.1f}{ratio:>7.2f}"
    return f"{size_text}{rates_text}{median['predict']:>9.1f}"


def _step(learner, images, labels, precision) -> Callable[[], None]:  # type: ignore[no-untyped-def]
    import torch

    from eyevsai.training.optimizer import build_optimizer

    layout = (
        torch.channels_last
        if images.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    network = learner.network.to(memory_format=layout).train()
    optimizer = build_optimizer([network], learner.settings)

    def step() -> None:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step


def main() -> None:
    from eyevsai.models.factory import get_family

    heads = ("parameters", "MFLOPs", "train/s", "plain/s", "ratio", "predict/s")
    print(
        f"{'':<25}{heads[0]:>12}{heads[1]:>10}{heads[2]:>9}{heads[3]:>9}{heads[4]:>7}{heads[5]:>9}"
    )
    for family in FAMILIES:
        for variation in get_family(family).variations:
            print(measure(family, variation), flush=True)

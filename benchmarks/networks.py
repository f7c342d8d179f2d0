"""Size and speed of each network with the CPU preset, written to eyevsai/models/measurements.json.

`python -m benchmarks networks`, or `EYEVSAI_MODELS=deep_v1,deep_v2 python -m benchmarks networks`.

Reports parameters, operations, and images per second in training and prediction. `plain` is the
same network in a float32 NCHW loop on one batch in memory. Limit: eyevsai's training step, without
augmentation, is at least twice as fast on a CPU with AVX512-BF16. Single steps are measured
alternately; rates are medians, and the ratio is the median of the ratios.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

ROUNDS = {"deep_v1": 21, "deep_v2": 21, "transfer": 3}  # pretrained networks take seconds a step


def measure(family: str, variation: str) -> tuple[str, dict[str, Any]]:
    """Return the row of the table for one network, and its values for the measurements."""
    import torch

    from eyevsai.models.factory import build, get_family
    from eyevsai.training.device import find_precision, setup_device

    batch, rounds = (64, ROUNDS[family]) if family != "transfer" else (16, ROUNDS[family])
    options = {"weights": "none"} if family == "transfer" else {}
    settings = get_family(family).variations[variation].settings(**options)
    learner = build(family, variation, settings, tuple(map(str, range(60))), seed=0)
    summary = learner.summary()
    precision = find_precision("auto", setup_device(settings))  # type: ignore[arg-type]
    size = learner.preprocessing.image_size
    images = torch.randn(batch, 3, size, size)
    labels = torch.randint(0, 60, (batch,))
    step = _step(learner, images.contiguous(memory_format=torch.channels_last), labels, precision)
    plain = _step(
        build(family, variation, settings, learner.classes, seed=0), images, labels, torch.float32
    )
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8).numpy()
    rates: dict[str, list[float]] = {"ours": [], "plain": [], "predict": []}
    works: dict[str, Callable[[], object]]
    works = {"ours": step, "plain": plain, "predict": lambda: learner.predict_proba(pixels)}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            rates[name].append(batch / (time.perf_counter() - start))
    median = {name: statistics.median(values) for name, values in rates.items()}
    size_text = (
        f"{family}/{variation:<10}{size:>4} "
        f"px{summary.parameters:>12,}{(summary.flops or 0) / 1e6:>10.1f}"
    )
    ratio = statistics.median(
        ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)
    )
    rates_text = f"{median['ours']:>9.1f}{median['plain']:>9.1f}{ratio:>7.2f}"
    values = {
        "parameters": summary.parameters,
        "mflops": round((summary.flops or 0) / 1e6, 1),
        "image_size": size,
        "train_per_s": round(median["ours"], 1),
        "predict_per_s": round(median["predict"], 1),
    }
    return f"{size_text}{rates_text}{median['predict']:>9.1f}", values


def _step(learner, images, labels, precision) -> Callable[[], None]:  # type: ignore[no-untyped-def]
    import torch

    from eyevsai.training.optimizer import build_optimizer
    from eyevsai.training.strided_depthwise import StridedDepthwise

    is_ours = images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_ours else torch.contiguous_format
    network = learner.network.to(memory_format=layout).train()
    optimizer = build_optimizer([network], learner.settings)

    def step() -> None:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        with (
            StridedDepthwise() if is_ours else nullcontext(),
            torch.autocast("cpu", precision, enabled=precision != torch.float32),
        ):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step


def main() -> None:
    from eyevsai.models.factory import get_family
    from eyevsai.models.measurements import update_measurements

    heads = ("parameters", "MFLOPs", "train/s", "plain/s", "ratio", "predict/s")
    print(
        f"{'':<25}{heads[0]:>12}{heads[1]:>10}{heads[2]:>9}{heads[3]:>9}{heads[4]:>7}{heads[5]:>9}"
    )
    selected = [name for name in os.environ.get("EYEVSAI_MODELS", "").split(",") if name]
    for family in selected or ROUNDS:
        for variation in get_family(family).variations:
            row, values = measure(family, variation)
            print(row, flush=True)
            update_measurements({f"{family}/{variation}": values})

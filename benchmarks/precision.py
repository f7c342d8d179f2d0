"""Accuracy with bfloat16, compared with float32: deep_v1 at 64 px on the 60-class union.

Trains with both precisions for each of three seeds. Limit: the mean difference of the best valid
accuracy is at most 1.5 percentage points.
"""

from __future__ import annotations

import statistics

from benchmarks.photographs import are_missing, load_union

SEEDS, EPOCHS, SIZE = (0, 1, 2), 30, 64


def best_accuracy(precision: str, seed: int) -> float:
    """Train, and return the best valid accuracy of all epochs."""
    from eyevsai.models.deep_v1.network import DeepV1Learner
    from eyevsai.models.deep_v1.settings import DeepV1Settings

    dataset = load_union()
    settings = DeepV1Settings(epochs=EPOCHS, image_size=SIZE, precision=precision)
    learner = DeepV1Learner("standard", settings, dataset.classes, seed)
    data = dataset.open(learner.preprocessing)
    rows: list[dict[str, float]] = []
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(row))
    return max(row["valid/accuracy"] for row in rows)


def main() -> None:
    if are_missing():
        return
    differences = []
    for seed in SEEDS:
        accuracy = {name: best_accuracy(name, seed) for name in ("bfloat16", "float32")}
        differences.append(100 * (accuracy["bfloat16"] - accuracy["float32"]))
        print(
            f"seed {seed}: bfloat16 {accuracy['bfloat16']:.4f}, float32 {accuracy['float32']:.4f}",
            flush=True,
        )
    print(f"mean difference {statistics.mean(differences):+.2f} points   (limit +/-1.5)")

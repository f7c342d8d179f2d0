"""Names of metrics.

Metrics of epochs have a slash, such as `valid/loss`; single values have none. MLflow's UI groups
charts by the part before the slash, in alphabetical order, and shows those without one last: a run
begins with its curves.
"""

from __future__ import annotations

from collections.abc import Mapping

EPOCH_ACCURACY = "valid/accuracy"  # logged in each epoch
TEST = "test_"  # prefix of the metrics of an evaluation
VALID_BEST = "best_valid_"  # prefix of the metrics of the best epoch
BEST_EPOCH = "best_epoch"
CALIBRATION, IMPORTANCE = "calibration_", "importance_"  # prefixes of metrics on the valid split
TEST_ACCURACY, VALID_ACCURACY = f"{TEST}accuracy", f"{VALID_BEST}accuracy"  # logged once per run
SCORES = (TEST_ACCURACY, VALID_ACCURACY)  # a run's score is the first of these that it has
# beginnings of names that earlier versions logged, the longest first
FORMER = {
    "valid/best_epoch": BEST_EPOCH,
    "valid/best_": VALID_BEST,
    "test/": TEST,
    "calibration/": CALIBRATION,
    "importance/": IMPORTANCE,
}


def current_name(name: str) -> str:
    """Return the current name of a metric; names that did not change are returned as they are."""
    for former, current in FORMER.items():
        if name.startswith(former):
            return current + name.removeprefix(former)
    return name


def use_current_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a run, which an earlier version may have logged, by current name.

    A metric that was logged under both names, before and after an upgrade, has the value under the
    current one.
    """
    renamed = {current_name(name): value for name, value in metrics.items()}
    return renamed | {name: metrics[name] for name in renamed if name in metrics}

"""Wait policy of OpenMP's threads, set before a library loads OpenMP."""

from __future__ import annotations

import os

# Iterations for which an idle thread of GNU's OpenMP polls before it sleeps. With its default of
# 300,000, threads poll at barriers for others that cannot run, because another process occupies
# their core. With 1,000, they sleep between the small steps of a network, and waking them takes
# longer than the steps. Measured by `python -m benchmarks busy`.
SPIN_COUNT = "GOMP_SPINCOUNT"
SPIN_ITERATIONS = 10_000
# variables that also determine how threads wait, in GNU's and LLVM's OpenMP
WAIT_SETTINGS = (SPIN_COUNT, "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")


def limit_spinning() -> None:
    """Set `GOMP_SPINCOUNT` in the environment of this process and of those that it starts.

    Has no effect if the user has set one of `WAIT_SETTINGS`, or if OpenMP is loaded already, as it
    reads its environment only then: call this before torch, scikit-learn and others are imported.
    """
    if not any(name in os.environ for name in WAIT_SETTINGS):
        os.environ[SPIN_COUNT] = str(SPIN_ITERATIONS)

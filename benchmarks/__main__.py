"""Command line of the benchmarks: `make bench` runs all, `python -m benchmarks NAME ...` some.

`python -m benchmarks peers [ROW ...]` compares with other projects, which it installs. It is not
part of `make bench`.
"""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = {
    "journey": "benchmarks.journey",
    "training_speed": "benchmarks.training_speed",
    "features": "benchmarks.features",
    "busy": "benchmarks.busy",
    "prediction": "benchmarks.prediction",
    "networks": "benchmarks.networks",
    "memory": "benchmarks.memory",
    "overhead": "benchmarks.overhead",
    "data": "benchmarks.data",
    "accuracy": "benchmarks.accuracy",
    "small_images": "benchmarks.small_images",
    "precision": "benchmarks.precision",
    "checkpoints": "benchmarks.checkpoints",
    "tuning": "benchmarks.tuning",
    "pruning": "benchmarks.pruning",
    "evaluation": "benchmarks.evaluation",
    "drift": "benchmarks.drift",
    "rollout": "benchmarks.rollout",
    "loop": "benchmarks.loop",
    "exports": "benchmarks.exports",
    "frozen": "benchmarks.frozen",
    "registry": "benchmarks.registry",
    "reports": "benchmarks.reports",
    "matrix": "benchmarks.matrix",
    "faults": "benchmarks.faults",
    "inference_log": "benchmarks.inference_log",
    "serving": "benchmarks.serving",
}


PEERS = "peers"


def main() -> None:
    """Run the named benchmarks, or all of them; exit with an error if a name is unknown."""
    if sys.argv[1:2] == [PEERS]:
        import_module("benchmarks.peers.command").main(sys.argv[2:])
        return
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"There is no benchmark {unknown[0]!r}. Known: {', '.join((*BENCHMARKS, PEERS))}.")
    for name in names:
        print(f"## {name}", flush=True)
        import_module(BENCHMARKS[name]).main()


main()

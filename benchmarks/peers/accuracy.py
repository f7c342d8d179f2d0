"""Row `accuracy`: accuracy on test images after equal times of training.

Trains on the 60-class union of the photographs, from scratch and from the same ImageNet weights of
EfficientNet-Lite0, for 2, 6 and 20 minutes. All participants have the same training, validation and
test images: those of eyevsai's own split. They select their best epoch on the validation images;
the test images are used once, for the table. The time is that of the training process on two cores,
from its start: imports, reading and decoding, building, measuring the speed, training, validation,
and storing the weights; the test is not part of it.

from scratch, at 96 px
    eyevsai      `eyevsai train --model deep_v1/standard --minutes N`, which may plan another size
    timm         resnet18 with the settings of timm's documentation for ResNets: SGD, a cosine
                 schedule with warm-up, random erasing, averaged weights
    fastai       resnet18, aug_transforms, label smoothing, fit_one_cycle
    Ultralytics  yolo11n-cls at its defaults, with its argument `time`
from pretrained weights, at 224 px
    eyevsai      `eyevsai train --model transfer/efficientnet_lite0 --minutes N`
    timm         AdamW, otherwise the settings of timm's documentation for EfficientNets; this was
                 chosen against RMSprop on 120 of the test images, in favour of timm
    fastai       vision_learner and fine_tune at their defaults

timm and fastai plan their epochs from a measurement of a few seconds. timm computes in bfloat16 and
channels_last where the CPU has instructions for that, as eyevsai does; the mixed precision of
fastai and Ultralytics is for GPUs only. eyevsai is trained with EYEVSAI_BENCHMARK_ROUNDS seeds
(default: 3), the peers with one.

EYEVSAI_MINUTES=2,6 and EYEVSAI_STARTS=scratch select a part. All of it takes about five hours.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.participants import Participant, Row, Step
from benchmarks.peers.runner import (
    REPEATS,
    Prepared,
    Results,
    make_cells,
    measure_row,
    prepare_row,
)
from benchmarks.peers.table import OURS, Cell, Metric, format_table
from benchmarks.photographs import write_union
from benchmarks.variables import parse_numbers

ACCURACY = "accuracy"
MINUTES = (2.0, 6.0, 20.0)
SHORTEST = 0.01  # minutes
SCRATCH, PRETRAINED = "scratch", "pretrained"
STARTS = {SCRATCH: "from scratch", PRETRAINED: "from the same pretrained weights"}
MODELS = {SCRATCH: "deep_v1/standard", PRETRAINED: "transfer/efficientnet_lite0"}
SIZES = {SCRATCH: 96, PRETRAINED: 224}  # pixels; the defaults of these models
BATCH, WORKERS = 64, 2  # of timm and fastai
WEIGHTS_FILE = "efficientnet_lite0.pth"  # next to the folder of the images
OVERHEAD = 0.4  # minutes of a run besides its training: evaluation, and importing for it
NO_WEIGHTS = (
    "cannot load these weights: it takes its own networks, and those of torchvision, which has no "
    "EfficientNet-Lite0"
)


def report_accuracy() -> None:
    """Measure the selected part of the row, and print a table for each start of the training.

    A table is printed after each number of minutes, with the columns measured so far. Exits with an
    error if EYEVSAI_MINUTES or EYEVSAI_STARTS is invalid, or the weights are not installed.
    """
    minutes = select_minutes(os.environ.get("EYEVSAI_MINUTES", ""))
    starts = select_starts(os.environ.get("EYEVSAI_STARTS", ""))
    prepared = {start: prepare_row(make_row(start, minutes[0])) for start in starts}
    progress = Progress(plan_runs(starts, minutes, prepared))
    with tempfile.TemporaryDirectory() as root:
        data = Path(root) / "photographs"
        if PRETRAINED in starts:
            write_weights(data.with_name(WEIGHTS_FILE))
        images = write_union(data)
        num_tested = len(list(data.glob("test/*/*")))
        for start in starts:
            metrics: list[Metric] = []
            cells: dict[str, dict[str, Cell]] = {}
            notes: list[str] = []
            for each in minutes:
                row = make_row(start, each)
                results = measure_row(row, data, images, prepared[start], progress.announce)
                metrics.extend(row.metrics)
                cells |= make_cells(row, results, prepared[start].reasons)
                notes.append(describe_runs(results, each))
                if ours := describe_ours(results, each):
                    notes.append(ours)
                print(f"### {ACCURACY}: {row.title}; {num_tested} test images\n")
                print(format_table(metrics, cells) + "\n")
                print("\n".join(notes) + "\n", flush=True)


def select_minutes(text: str) -> tuple[float, ...]:
    """Return the minutes of EYEVSAI_MINUTES in ascending order; the default if it is empty.

    Exits with an error if one of them is not a number, or is less than `SHORTEST`.
    """
    example = ",".join(f"{each:g}" for each in MINUTES)
    minutes = parse_numbers("EYEVSAI_MINUTES", text, example, float, SHORTEST)
    return tuple(sorted(set(minutes))) or MINUTES


def select_starts(text: str) -> tuple[str, ...]:
    """Return the starts that EYEVSAI_STARTS names; all if it is empty.

    Exits with an error if a name is unknown.
    """
    names = {part.strip() for part in text.split(",") if part.strip()}
    if unknown := names - set(STARTS):
        raise SystemExit(
            f"EYEVSAI_STARTS contains unknown names: {', '.join(sorted(unknown))}. Use a "
            f"comma-separated list of {', '.join(STARTS)}."
        )
    return tuple(start for start in STARTS if start in names or not names)


def make_row(start: str, minutes: float) -> Row:
    """Return the row of one column: all participants, trained for a number of minutes.

    Args:
        start: key of `STARTS`.
        minutes: time of the training process.
    """
    key = f"{start}_{minutes:g}"
    size = SIZES[start]

    def train_ours(data: Path, repeat: int) -> Sequence[Step]:
        model = MODELS[start]
        train = f"-m eyevsai train --data {data} --model {model} --minutes {minutes:g}".split()
        version = f"{data.name}-{model.replace('/', '-')}/1"
        return [
            Step(command=(*train, "--seed", str(repeat)), key="train_s"),
            Step("test_accuracy", {"model": version}),
        ]

    def train_peer(data: Path, repeat: int) -> Sequence[Step]:
        weights = str(data.with_name(WEIGHTS_FILE)) if start == PRETRAINED else ""
        values = {"data": str(data), "size": size, "minutes": minutes, "seed": repeat}
        return [Step("accuracy", values | {"batch": BATCH, "workers": WORKERS, "weights": weights})]

    def train_timm(data: Path, repeat: int) -> Sequence[Step]:
        from eyevsai.training.device import has_fast_bfloat16

        return [
            Step(step.task, {**step.arguments, "fast": has_fast_bfloat16()})
            for step in train_peer(data, repeat)
        ]

    def train_ultralytics(data: Path, repeat: int) -> Sequence[Step]:
        values = {"data": str(data), "size": size, "minutes": minutes, "seed": repeat}
        return [Step("accuracy", values)]

    participants = {
        OURS: Participant("", "ours.py", train_ours),
        "timm": Participant("timm", "timm_accuracy.py", train_timm, is_repeated=False),
        "fastai": Participant("fastai", "fastai_accuracy.py", train_peer, is_repeated=False),
    }
    if start == SCRATCH:
        participants["Ultralytics"] = Participant(
            "ultralytics", "ultralytics_accuracy.py", train_ultralytics, is_repeated=False
        )
    return Row(
        f"{STARTS[start]}, after equal minutes of the training process, imports and validation "
        "included",
        (Metric(key, f"{minutes:g} min, %", higher_is_better=True, target=1.0),),
        participants,
        write_union,
        absent={} if start == SCRATCH else {"Ultralytics": NO_WEIGHTS},
        derive=lambda values, images: (
            {key: 100 * values["accuracy"]} if "accuracy" in values else {}
        ),
        timeout_s=90 * minutes + 600,
    )


def plan_runs(
    starts: Sequence[str], minutes: Sequence[float], prepared: Mapping[str, Prepared]
) -> list[float]:
    """Return the expected minutes of all runs, in their order."""
    return [
        each + OVERHEAD
        for start in starts
        for each in minutes
        for repeat in range(REPEATS)
        for title, participant in make_row(start, each).participants.items()
        if title not in prepared[start].reasons and (participant.is_repeated or not repeat)
    ]


class Progress:
    """Lines that show the current run, the number of runs, and the time that is left."""

    def __init__(self, runs: Sequence[float]) -> None:
        """Begin before the first run.

        Args:
            runs: expected minutes of each run.
        """
        self.runs, self.num_started = runs, 0

    def announce(self, title: str, repeat: int) -> None:
        """Print the line of the next run."""
        expected = sum(self.runs[self.num_started :])
        minutes = self.runs[self.num_started] - OVERHEAD
        self.num_started += 1
        print(
            f"run {self.num_started} of {len(self.runs)}, about {expected:.0f} min left: {title}, "
            f"{minutes:g} min, seed {repeat}",
            flush=True,
        )


def describe_runs(results: Results, minutes: float) -> str:
    """Return a line with the minutes that the trainings took, and with all that went wrong."""
    parts = []
    for title, measured in results.items():
        seconds = [each.values["train_s"] for each in measured if "train_s" in each.values]
        texts = [f"{statistics.median(seconds) / 60:.2f}"] if seconds else []
        if any(each.values.get("stopped") for each in measured):
            texts.append("stopped before the end of its schedule")
        errors = [each.error for each in measured if each.error]
        if errors:
            texts.append(f"{len(errors)} of {len(measured)} runs failed: {errors[0]}")
        parts.append(f"{title} {', '.join(texts)}")
    return f"Minutes of training, of {minutes:g}: {'; '.join(parts)}."


def describe_ours(results: Results, minutes: float) -> str:
    """Return a line with the other scores of eyevsai, one for each seed; empty if none is known."""
    measured = [each.values for each in results.get(OURS, []) if "valid_accuracy" in each.values]
    if not measured:
        return ""
    valid = ", ".join(f"{each['valid_accuracy']:.4f}" for each in measured)
    errors = ", ".join(f"{each['ece']:.4f}" for each in measured)
    return f"{OURS} after {minutes:g} minutes: valid accuracy {valid}; ECE on test images {errors}."


def write_weights(target: Path) -> None:
    """Write the packaged weights of EfficientNet-Lite0 with timm's names, for all peers.

    Exits with an error if the package is not installed.
    """
    import torch

    from eyevsai.core.errors import UserError
    from eyevsai.models.transfer.backbones import BACKBONES
    from eyevsai.models.transfer.pretrained import find_weights
    from eyevsai.models.transfer.settings import IMAGENET
    from eyevsai.models.transfer.weights_file import read_state_dicts

    backbone = BACKBONES["efficientnet_lite0"]
    try:
        source = find_weights(backbone, IMAGENET)
        assert source is not None  # only with `--weights none`
        tensors = read_state_dicts(source)[0].tensors
    except UserError as error:
        raise SystemExit(str(error)) from error
    torch.save({backbone.rename(name): tensor for name, tensor in tensors.items()}, target)

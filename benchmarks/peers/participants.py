"""Participants of the comparison, and the rows in which they do the same work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.table import Metric


@dataclass(frozen=True)
class Step:
    """One process of a participant.

    Attributes:
        task: function of the participant's script; empty for a command without a script.
        arguments: its arguments.
        command: without a task: the arguments of the interpreter.
        key: metric that is the duration of the whole process; empty for the values it prints.
    """

    task: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    key: str = ""


@dataclass(frozen=True)
class Participant:
    """A project in one row.

    Attributes:
        environment: name of the peer's environment; empty for eyevsai.
        script: file of `scripts/`.
        steps: function from the data's folder and the number of the repeat to the processes.
        missing: reasons of the metrics that the project does not have.
        needs_bfloat16: it is measured only on a CPU with instructions for bfloat16, where the
            default of eyevsai is bfloat16, too.
        is_repeated: it is measured in each repeat; if False, only in the first one.
    """

    environment: str
    script: str
    steps: Callable[[Path, int], Sequence[Step]]
    missing: Mapping[str, str] = field(default_factory=dict)
    needs_bfloat16: bool = False
    is_repeated: bool = True


@dataclass(frozen=True)
class Row:
    """Row of the comparison.

    Attributes:
        title: the work, for the heading of the table.
        metrics: columns of the table.
        participants: participants by their name in the table.
        absent: reasons of projects that do not take part, by their name in the table.
        write_data: writes the images into a folder, and returns their number.
        derive: function from the values of a participant and the number of images to more values.
        timeout_s: seconds after which a process is ended.
    """

    title: str
    metrics: tuple[Metric, ...]
    participants: Mapping[str, Participant]
    write_data: Callable[[Path], int]
    absent: Mapping[str, str] = field(default_factory=dict)
    derive: Callable[[Mapping[str, float], int], Mapping[str, float]] = lambda values, images: {}
    timeout_s: float = 300

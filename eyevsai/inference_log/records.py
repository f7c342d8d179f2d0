"""Records of the inference log. Times are Unix seconds.

The classes are not frozen: a server makes one per answer, and a frozen dataclass of this size takes
three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PRODUCTION, CANDIDATE, SHADOW = "production", "candidate", "shadow"
NAMED = "named"  # a version that the client named, outside of any split
OK, FAILED, TIMEOUT = "ok", "failed", "timeout"
# sources of labels, the most trustworthy first
PERSON, RULE, IMPORT = KINDS = ("person", "rule", "import")
RANDOM, UNCERTAIN = ("random", "uncertain")
MAX_LABEL = 256  # characters of a label, as of a class name
MAX_SOURCE = 128
_Digest = bytes  # a field of `Answer` has the name of the type
_ROW_BYTES = 1_000  # measured size of an answer in memory without its probabilities


@dataclass(slots=True)
class Answer:
    """One answer of a model, or its failure.

    `probabilities` has C values, and `statistics` six; both are None if the model failed. `sha256`
    is the digest of the image file. `step` is the step of a rollout, and `shadow_of` the id of the
    answer that the client received if this one is only a comparison.
    """

    id: str
    at: float
    model: str
    version: int
    arm: str = PRODUCTION
    status: str = OK
    label: str | None = None
    probability: float | None = None
    probabilities: npt.NDArray[np.floating] | None = None
    statistics: npt.NDArray[np.float32] | None = None
    error: str | None = None
    model_ms: float | None = None
    queue_ms: float | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: _Digest | None = None
    key_hash: str | None = None
    step: str | None = None
    shadow_of: str | None = None
    is_unsure: bool = False  # not stored: unsure answers are preferred for the sample of images

    @property
    def memory_bytes(self) -> int:
        """Approximate size in memory."""
        return _ROW_BYTES + (0 if self.probabilities is None else self.probabilities.nbytes)


@dataclass(slots=True)
class Label:
    """The true class of an image, according to `source`: KIND or KIND:NAME.

    `at` is the time at which the label was given, by default that of its arrival.
    """

    id: str
    label: str
    source: str
    at: float | None = None
    received_at: float | None = None

    @property
    def memory_bytes(self) -> int:
        """Approximate size in memory."""
        return _ROW_BYTES


@dataclass(slots=True)
class Version:
    """The classes of a model version, in the order of its probabilities."""

    model: str
    version: int
    classes: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """Approximate size in memory."""
        return _ROW_BYTES + sum(map(len, self.classes))


@dataclass(slots=True)
class KeptImage:
    """The file of a sampled image. `reason` is RANDOM or UNCERTAIN: how it was sampled."""

    sha256: bytes
    answer_id: str
    reason: str
    data: bytes

    @property
    def memory_bytes(self) -> int:
        """Approximate size in memory."""
        return _ROW_BYTES + len(self.data)


Record = Answer | Label | Version | KeptImage


def kind_of(source: str) -> str:
    """Return the kind of a source: `person` of `person:anna`."""
    return source.partition(":")[0]


def source_problem(source: object) -> str | None:
    """Return the reason why a value is not a source of labels; None for a valid one."""
    if not isinstance(source, str) or kind_of(source) not in KINDS:
        return f"the source must be person, rule or import, or KIND:NAME, not {shorten(source)}"
    if len(source) > MAX_SOURCE or not source.isprintable():
        return f"the source must have at most {MAX_SOURCE} printable characters"
    return None


def shorten(value: object, limit: int = 60) -> str:
    """Return the representation of a value from outside for a message, at most `limit` long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."

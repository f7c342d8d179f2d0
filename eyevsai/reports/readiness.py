"""Deployment readiness of a model: blockers, reasons and recommendations.

All of them are facts recorded with the version, its run or its exports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyevsai.evaluation.metric_names import TEST, TEST_ACCURACY
from eyevsai.formats.factory import REFUSED
from eyevsai.reports.difficulty import is_scored
from eyevsai.reports.model_versions import ModelVersion


@dataclass(frozen=True)
class Blocker:
    """Reason against deployment."""

    short: str  # a few words, for a table
    text: str  # complete, most with the fix


@dataclass(frozen=True)
class ReadinessReport:
    """Readiness of the version that was selected for a registered model."""

    version: ModelVersion
    selected_because: str
    classes: tuple[str, ...]  # in the order of its outputs; empty if its run did not log them
    classes_of_dataset: tuple[str, ...]  # of the newest model of its dataset
    folder: str | None  # with the files of the version; None if there is none on this machine
    is_missing: bool  # True if its files should be on this machine and are not

    @property
    def blockers(self) -> list[str]:
        """Reasons against deployment, most of them with the fix; empty if there are none."""
        return [blocker.text for blocker in self._blockers()]

    @property
    def short_blockers(self) -> list[str]:
        """Reasons against deployment in a few words each; empty if there are none."""
        return list(dict.fromkeys(blocker.short for blocker in self._blockers()))

    @property
    def is_ready(self) -> bool:
        """True if nothing prevents deployment."""
        return not self.blockers

    @property
    def reasons(self) -> list[str]:
        """Reasons why the model is ready, or why it is not."""
        if self.blockers:
            return self.blockers
        version = self.version
        reasons = [
            f"its accuracy on the test split is {version.metrics[TEST_ACCURACY]:.4f}",
            f"its exports passed the parity check: {', '.join(version.passed)}",
            f"it has the {len(self.classes)} classes of {version.dataset}",
        ]
        return [
            *reasons,
            *(["it passed the promotion checks"] if version.stage == "production" else []),
        ]

    @property
    def recommendations(self) -> list[str]:
        """Next steps, as sentences."""
        if self.blockers:
            return [f"Before deployment: {blocker}." for blocker in self.blockers]
        version, steps = self.version, list[str]()
        latency_ms = version.metrics.get(f"{TEST}latency_ms")
        speed = (
            ""
            if latency_ms is None
            else f"; the model itself has a latency of {latency_ms:.1f} ms per image"
        )
        steps.append(
            f"Load it with eyevsai.load({version.uri!r}), or take its export as "
            f"{' or '.join(version.passed)}{speed}."
        )
        if version.threshold is not None:
            steps.append(
                f"Treat predictions with a probability below {version.threshold:.4f} as unsure."
            )
        if version.stage != "production":
            steps.append(f"It is not in Production: eyevsai promote {version.argument}.")
        return steps

    def _blockers(self) -> list[Blocker]:
        return [
            *self._version_blockers(),
            *self._export_blockers(),
            *(Blocker("promotion checks not passed", text) for text in self.version.failed_checks),
            *self._class_blockers(),
        ]

    def _version_blockers(self) -> list[Blocker]:
        version = self.version
        if self.is_missing:
            return [Blocker("files missing", "its files are missing: train it again")]
        if not version.experiment_id:
            return [Blocker("run deleted", "its run was deleted with its metrics: train it again")]
        if TEST_ACCURACY not in version.metrics:
            text = f"it was not evaluated on its test split: eyevsai evaluate {version.argument}"
            return [Blocker("not evaluated", text)]
        if not is_scored(version.accuracy):
            return [Blocker("accuracy is zero", "its test accuracy is zero: train it again")]
        return []

    def _export_blockers(self) -> list[Blocker]:
        version, blockers = self.version, list[Blocker]()
        export = f"eyevsai export {version.argument}"
        if refused := [name for name, each in version.exports.items() if each.result == REFUSED]:
            text = f"its export as {', '.join(refused)} failed the parity check"
            blockers.append(Blocker("export refused", text))
        if not version.passed:
            text = f"it has no export that passed the parity check: {export}"
            blockers.append(Blocker("no export", text))
        if missing := [name for name, each in version.passed.items() if each.is_missing]:
            text = (
                f"the files of its export as {', '.join(missing)} are missing: {export} "
                f"--format {','.join(missing)}"
            )
            blockers.append(Blocker("export files missing", text))
        return blockers

    def _class_blockers(self) -> list[Blocker]:
        if not self.classes:
            text = "its run did not log its class names: train it again"
            return [Blocker("class names unknown", text)]
        if set(self.classes) == set(self.classes_of_dataset):
            return []
        differing = sorted(set(self.classes) ^ set(self.classes_of_dataset))
        text = (
            f"its classes differ from those of the newest model of {self.version.dataset} "
            f"({_shorten(differing)}): train it again"
        )
        return [Blocker("other classes", text)]


def _shorten(names: Sequence[str]) -> str:
    """Return the first three names, and the number of further ones."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

"""Whether a model may leave for a game, and what it takes: each answer is a fact that its version,
its run or its exports say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyevsai.evaluation.metric_names import TEST_ACCURACY
from eyevsai.formats.factory import REFUSED
from eyevsai.reports.difficulty import is_scored
from eyevsai.reports.model_versions import ModelVersion


@dataclass(frozen=True)
class ReadinessReport:
    """The version that stands for a registered model."""

    version: ModelVersion
    selected_because: str
    classes: tuple[str, ...]  # in the order of its outputs; empty when its run does not say
    classes_of_dataset: tuple[str, ...]  # of the newest version of a model of its dataset
    folder: str | None  # of the version on this machine
    is_missing: bool  # it has no folder although it ought to be here

    @property
    def blockers(self) -> list[str]:
        """What keeps it from deployment, each with what to do; empty when nothing does."""
        version = self.version
        found = [*self._own_blockers(), *self._export_blockers(), *version.failed_checks]
        if not self.classes:
            return [*found, "its run does not say which classes it knows: train it again"]
        if set(self.classes) != set(self.classes_of_dataset):
            differing = sorted(set(self.classes) ^ set(self.classes_of_dataset))
            found.append(
                f"the newest model of {version.dataset} knows other classes "
                f"({_shorten(differing)}): train this one again"
            )
        return found

    @property
    def is_ready(self) -> bool:
        """Whether nothing keeps it from deployment."""
        return not self.blockers

    @property
    def reasons(self) -> list[str]:
        """Why it is ready, or why it is not."""
        if self.blockers:
            return self.blockers
        version = self.version
        reasons = [
            f"its accuracy on the test split is {version.metrics[TEST_ACCURACY]:.4f}",
            f"exports say what it says: {', '.join(version.passed)}",
            f"it knows the {len(self.classes)} classes of {version.dataset}",
        ]
        return [
            *reasons,
            *(["it passed the promotion checks"] if version.stage == "production" else []),
        ]

    @property
    def recommendations(self) -> list[str]:
        """What to do with it next."""
        if self.blockers:
            return [f"Before it is deployed: {lack}." for lack in self.blockers]
        version, found = self.version, list[str]()
        quick = version.metrics.get("test/latency_ms")
        speed = "" if quick is None else f"; the model itself took {quick:.1f} ms for an image"
        found.append(
            f"Load it with eyevsai.load({version.uri!r}), or take its export as "
            f"{' or '.join(version.passed)}{speed}."
        )
        if version.threshold is not None:
            found.append(
                f"It had better say unsure below a probability of {version.threshold:.4f}."
            )
        if version.stage != "production":
            found.append(
                f"It is not in Production: eyevsai promote {version.key} --version "
                f"{version.number}."
            )
        return found

    def _own_blockers(self) -> list[str]:
        version = self.version
        if self.is_missing:
            return ["its files are gone: train it again"]
        if not version.experiment_id:
            return ["its run was deleted, and with it what was measured: train it again"]
        if TEST_ACCURACY not in version.metrics:
            return [
                "it was not evaluated on its test split: eyevsai evaluate --model-uri "
                f"{version.uri}"
            ]
        return (
            [] if is_scored(version.accuracy) else ["it is right on no test image: train it again"]
        )

    def _export_blockers(self) -> list[str]:
        version, found = self.version, list[str]()
        export = f"eyevsai export --model-uri {version.uri}"
        if refused := [name for name, each in version.exports.items() if each.result == REFUSED]:
            found.append(
                f"its export as {', '.join(refused)} was refused, for it does not say what the "
                "model says"
            )
        if not version.passed:
            found.append(f"it has no export that was held against it: {export}")
        if missing := [name for name, each in version.passed.items() if each.is_missing]:
            found.append(
                f"the files of its export as {', '.join(missing)} are gone: {export} "
                f"--format {','.join(missing)}"
            )
        return found


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

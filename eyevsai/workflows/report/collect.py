"""The versions of registered models with all that a report says of them, read from the store at
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from eyevsai.evaluation.metric_names import TEST_ACCURACY, VALID_ACCURACY
from eyevsai.formats.factory import EXPORTS, PASSED
from eyevsai.models.factory import FAMILIES
from eyevsai.registry.artifacts import locate
from eyevsai.registry.audit_log import AuditEntry, read_promotions
from eyevsai.registry.entities import KnownVersion, RegisteredModel, open_registry, read_models
from eyevsai.registry.stages import stage_of
from eyevsai.registry.versions import EXPORT, SIZE, TESTED, THRESHOLD, exports_of, find_location
from eyevsai.reports.model_versions import Export, ModelVersion, finite, select_versions
from eyevsai.reports.readiness import ReadinessReport
from eyevsai.store.tags import DATASET_DIGEST
from eyevsai.tracking.run_metrics import RunMetrics, read_run_metrics
from eyevsai.tracking.search import CLASSES, IMPORTED, read_json
from eyevsai.workflows.registry.status import read_number, read_whole

# tags of a registered model that eyevsai trains
NAME_TAGS = ("dataset", "model", "variation")


def read_model_versions(tracking_uri: str) -> list[ModelVersion]:
    """Every version that a training registered; what points at another one's model, as `registry
    best` makes it, is none of its own.
    """
    client = open_registry(tracking_uri)
    models = [
        model for model in read_models(client) if all(model.tags.get(name) for name in NAME_TAGS)
    ]
    runs = read_run_metrics(
        tracking_uri, (each.run_id for model in models for each in model.versions if each.run_id)
    )
    promotions = read_promotions(client)
    return [
        _describe_version(
            tracking_uri,
            model,
            each,
            runs.get(each.run_id),
            promotions.get((each.name, each.number)),
        )
        for model in models
        for each in model.versions
    ]


def report_models(
    tracking_uri: str, versions: Iterable[ModelVersion], everything: Iterable[ModelVersion]
) -> list[ReadinessReport]:
    """Report the version that stands for each model of `versions`, which are all versions of some
    models, beside the classes of the newest version of its dataset in `everything`.
    """
    client, chosen = open_registry(tracking_uri), select_versions(versions)
    classes = Classes(tracking_uri)
    newest: dict[str, tuple[str, ...]] = {version.dataset: () for version, _ in chosen.values()}
    for each in sorted(
        everything, key=lambda each: (each.registered_ms, each.number), reverse=True
    ):
        # versions without logged classes are skipped
        if each.has_model and newest.get(each.dataset) == ():
            newest[each.dataset] = classes.read(each)
    for version, _ in chosen.values():
        classes.read(version)
    return [
        ReadinessReport(
            version,
            why,
            classes.of(version),
            newest[version.dataset],
            *locate(tracking_uri, find_location(client, version.key, version.number)),
        )
        for version, why in chosen.values()
    ]


@dataclass(frozen=True)
class Classes:
    """The classes that versions know; of those that learned from the same data one run is read that
    says them.
    """

    tracking_uri: str
    of_data: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def read(self, version: ModelVersion) -> tuple[str, ...]:
        """Asks the version's run where nothing is known yet; a run that does not say leaves it to
        the next one.
        """
        if version.experiment_id and not self.of(version):
            self.of_data[_data_of(version)] = tuple(
                read_json(self.tracking_uri, version.run_id, CLASSES) or ()
            )
        return self.of(version)

    def of(self, version: ModelVersion) -> tuple[str, ...]:
        """What is known; empty where its run is gone, or no run of its data says."""
        return self.of_data.get(_data_of(version), ()) if version.experiment_id else ()


def _data_of(version: ModelVersion) -> tuple[str, str]:
    return version.dataset, version.fingerprint or version.run_id


def _describe_version(
    tracking_uri: str,
    model: RegisteredModel,
    version: KnownVersion,
    run: RunMetrics | None,
    promotion: AuditEntry | None,
) -> ModelVersion:
    tags, dataset = version.tags, model.tags["dataset"]
    return ModelVersion(
        key=version.name,
        dataset=dataset,
        family=model.tags["model"],
        variation=model.tags["variation"],
        number=version.number,
        run_id=version.run_id,
        experiment_id=run.experiment_id if run else "",
        fingerprint=tags.get(DATASET_DIGEST, ""),
        parts=run.parts if run else (),
        registered_ms=version.created_ms,
        stage=stage_of(model, version.number) or "",
        has_model=IMPORTED not in tags and model.tags["model"] in FAMILIES,
        duration_s=run.duration_s if run else None,
        metrics=finite(run.metrics if run else _metrics_of(tags)),
        exports=_read_exports(tracking_uri, version, run),
        failed_checks=_failed_checks(promotion),
        size_bytes=read_whole(tags.get(SIZE)),
        parameters=read_whole(tags.get("parameters")),
        image_size=read_whole(tags.get("image_size")),
        threshold=read_number(tags.get(THRESHOLD)),
    )


def _metrics_of(tags: Mapping[str, str]) -> dict[str, float]:
    """What a version says itself of how good it is."""
    known = {
        TEST_ACCURACY: read_number(tags.get(TESTED)),
        VALID_ACCURACY: read_number(tags.get("accuracy")),
    }
    return {name: value for name, value in known.items() if value is not None}


def _read_exports(
    tracking_uri: str, version: KnownVersion, run: RunMetrics | None
) -> dict[str, Export]:
    found = {}
    for name, how in exports_of(version.tags).items():
        begin = f"{EXPORT}.{name}."
        figures = {
            tag.removeprefix(begin): value
            for tag, text in version.tags.items()
            if tag.startswith(begin) and (value := read_number(text)) is not None
        }
        where = (
            locate(tracking_uri, f"{run.artifact_uri}/{EXPORTS}/{name}")
            if run and how == PASSED
            else (None, False)
        )
        found[name] = Export(how, f"runs:/{version.run_id}/{EXPORTS}/{name}", *where, figures)
    return found


def _failed_checks(promotion: AuditEntry | None) -> tuple[str, ...]:
    """Return why the last promotion of a version was refused or forced; empty if it passed."""
    if promotion is None:
        return ()
    day = f"on {promotion.time:%Y-%m-%d}, see run {promotion.run_id}"
    if promotion.forced and promotion.status == "FINISHED":
        return (f"it was promoted against its checks by --force {day}",)
    return (f"it failed the promotion checks {day}",) if promotion.refused else ()

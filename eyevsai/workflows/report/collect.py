"""Collection of registered versions with all values for reports, in bulk queries of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from eyevsai.core.model_ref import EXPORTS
from eyevsai.evaluation.metric_names import TEST_ACCURACY, VALID_ACCURACY
from eyevsai.formats.factory import PASSED
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
from eyevsai.workflows.registry.status import read_integer, read_number

# tags of a registered model that eyevsai trains
NAME_TAGS = ("dataset", "model", "variation")


def read_model_versions(tracking_uri: str) -> list[ModelVersion]:
    """Return all versions that were registered by a training or an import.

    References to other versions, as `registry best --promote` registers them, are left out.
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
    tracking_uri: str, versions: Iterable[ModelVersion], all_versions: Iterable[ModelVersion]
) -> list[ReadinessReport]:
    """Return the readiness report of one selected version for each model.

    Args:
        tracking_uri: URI of the tracking store.
        versions: all versions of the models to report.
        all_versions: all versions of the store, for the newest class list of each dataset.
    """
    client, selected = open_registry(tracking_uri), select_versions(versions)
    classes = ClassNames(tracking_uri)
    newest: dict[str, tuple[str, ...]] = {version.dataset: () for version, _ in selected.values()}
    for each in sorted(
        all_versions, key=lambda each: (each.registered_ms, each.number), reverse=True
    ):
        # versions without logged classes are skipped
        if each.has_model and newest.get(each.dataset) == ():
            newest[each.dataset] = classes.read(each)
    for version, _ in selected.values():
        classes.read(version)
    return [
        ReadinessReport(
            version,
            reason,
            classes.get(version),
            newest[version.dataset],
            *locate(tracking_uri, find_location(client, version.key, version.number)),
        )
        for version, reason in selected.values()
    ]


@dataclass(frozen=True)
class ClassNames:
    """Cache of the class names of versions.

    Versions that were trained on the same data share an entry, so that only one run is read.
    """

    tracking_uri: str
    # by dataset and digest
    by_data: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def read(self, version: ModelVersion) -> tuple[str, ...]:
        """Return the class names of a version, read from its run unless they are cached.

        They are empty if the run was deleted or did not log them.
        """
        if version.experiment_id and not self.get(version):
            self.by_data[_data_key(version)] = tuple(
                read_json(self.tracking_uri, version.run_id, CLASSES) or ()
            )
        return self.get(version)

    def get(self, version: ModelVersion) -> tuple[str, ...]:
        """Return the cached class names; empty if the run was deleted or did not log them."""
        return self.by_data.get(_data_key(version), ()) if version.experiment_id else ()


def _data_key(version: ModelVersion) -> tuple[str, str]:
    return version.dataset, version.fingerprint or version.run_id


def _describe_version(
    tracking_uri: str,
    model: RegisteredModel,
    version: KnownVersion,
    run: RunMetrics | None,
    promotion: AuditEntry | None,
) -> ModelVersion:
    """Return a version with all values for reports.

    Args:
        tracking_uri: URI of the tracking store.
        model: registered model of the version.
        version: snapshot of the version.
        run: metrics of its run; None if the run was deleted.
        promotion: last conclusive promotion of the version to Production; None if there is none.
    """
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
        size_bytes=read_integer(tags.get(SIZE)),
        parameters=read_integer(tags.get("parameters")),
        image_size=read_integer(tags.get("image_size")),
        threshold=read_number(tags.get(THRESHOLD)),
    )


def _metrics_of(tags: Mapping[str, str]) -> dict[str, float]:
    """Return the accuracies in the tags of a version, for a version without a run."""
    accuracies = {
        TEST_ACCURACY: read_number(tags.get(TESTED)),
        VALID_ACCURACY: read_number(tags.get("accuracy")),
    }
    return {name: value for name, value in accuracies.items() if value is not None}


def _read_exports(
    tracking_uri: str, version: KnownVersion, run: RunMetrics | None
) -> dict[str, Export]:
    """Return the exports of a version by format, with parity metrics from the version's tags.

    Only exports that passed the parity check have files.
    """
    exports = {}
    for name, result in exports_of(version.tags).items():
        prefix = f"{EXPORT}.{name}."
        metrics = {
            tag.removeprefix(prefix): value
            for tag, text in version.tags.items()
            if tag.startswith(prefix) and (value := read_number(text)) is not None
        }
        location = (
            locate(tracking_uri, f"{run.artifact_uri}/{EXPORTS}/{name}")
            if run and result == PASSED
            else (None, False)
        )
        uri = f"runs:/{version.run_id}/{EXPORTS}/{name}"
        exports[name] = Export(result, uri, *location, metrics)
    return exports


def _failed_checks(promotion: AuditEntry | None) -> tuple[str, ...]:
    """Return why the last promotion of a version was rejected or forced; empty if it passed."""
    if promotion is None:
        return ()
    day = f"on {promotion.time:%Y-%m-%d}, see run {promotion.run_id}"
    if promotion.forced and promotion.status == "FINISHED":
        return (f"it was promoted against its checks by --force {day}",)
    return (f"it failed the promotion checks {day}",) if promotion.refused else ()

"""Check of a dataset as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from eyevsai.data.curation import CuratedDataset, Sample
from eyevsai.data.decode import decode
from eyevsai.reports.inline_images import encode_thumbnail
from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page

SAMPLES_PER_CLASS = 4
MAX_CLASSES_SHOWN = 100
MAX_GROUPS_SHOWN = 100
MAX_FILES_SHOWN = 500  # in each list of files


def render_data_page(dataset: CuratedDataset, *, origin: PageOrigin = NO_ORIGIN) -> str:
    """Return the HTML page of a dataset check.

    It shows counts by class, image sizes, unused files, thumbnails of duplicates and conflicts, and
    samples of each class.

    Args:
        dataset: the checked dataset.
        origin: date of the check.
    """
    samples: dict[str, list[Sample]] = {label: [] for label in dataset.classes[:MAX_CLASSES_SHOWN]}
    for sample in dataset.samples:
        if len(samples.get(sample.label, [None] * SAMPLES_PER_CLASS)) < SAMPLES_PER_CLASS:
            samples[sample.label].append(sample)
    counts = list(dataset.counts.values())
    duplicates = dataset.duplicates()
    return render_page(
        "data_page.html",
        dataset.source.name,
        "Data check",
        origin,
        dataset=dataset,
        folders=[str(folder) for folder in dataset.source.parts.values()],
        counts=dataset.counts,
        most=max(counts, default=0),
        imbalance=max(counts) / max(1, min(counts)) if counts else 0,
        sizes=_describe_sizes(dataset.samples),
        not_used=list(filter(None, dataset.describe_unused().split("; "))),
        left_out=dataset.left_out_by_class,
        bad=dataset.bad[:MAX_FILES_SHOWN],
        wrong_extension=dataset.wrong_extension[:MAX_FILES_SHOWN],
        duplicates=duplicates[:MAX_GROUPS_SHOWN],
        conflicts=dataset.conflicts[:MAX_GROUPS_SHOWN],
        sequences=dataset.sequences[:MAX_GROUPS_SHOWN],
        num_duplicates=len(duplicates),
        samples=samples,
        picture=lambda sample: encode_thumbnail(decode(sample.file.path, dataset.depth)),
    )


def _describe_sizes(samples: Sequence[Sample]) -> list[tuple[str, int]]:
    """Return the number of images by range of the short side; empty ranges are left out."""
    bounds = (32, 64, 128, 256, 512, 1024, 2048, 10**6)
    sides = [min(sample.record.width, sample.record.height) for sample in samples]
    rows, low = [], 0
    for high in bounds:
        count = sum(low <= side < high for side in sides)
        if count:
            rows.append(
                (f"{low} to {high - 1} px" if high < 10**6 else f"{low} px and more", count)
            )
        low = high
    return rows

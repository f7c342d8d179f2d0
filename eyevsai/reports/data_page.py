"""What was found in a dataset, as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from eyevsai.data.curation import CuratedDataset, Sample
from eyevsai.data.decode import decode
from eyevsai.reports.inline_images import encode_thumbnail

SAMPLES_PER_CLASS = 4
MAX_CLASSES_SHOWN = 100
MAX_GROUPS_SHOWN = 100


def render_data_page(found: CuratedDataset) -> str:
    """Counts by class, sizes, files that are not used, duplicates and conflicts with pictures, and
    samples.
    """
    environment = Environment(
        loader=PackageLoader("eyevsai.reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["thumbnail"] = lambda item: encode_thumbnail(
        decode(item.file.path, found.depth)
    )
    samples: dict[str, list[Sample]] = {label: [] for label in found.classes[:MAX_CLASSES_SHOWN]}
    for item in found.samples:
        if len(samples.get(item.label, [None] * SAMPLES_PER_CLASS)) < SAMPLES_PER_CLASS:
            samples[item.label].append(item)
    counts = list(found.counts.values())
    page: str = environment.get_template("data_page.html").render(
        found=found,
        folders=[str(folder) for folder in found.source.parts.values()],
        counts=found.counts,
        most=max(counts, default=0),
        imbalance=max(counts) / max(1, min(counts)) if counts else 0,
        sizes=_describe_sizes(found.samples),
        not_used=list(filter(None, found.describe_unused().split("; "))),
        left_out=found.left_out_by_class,
        duplicates=found.duplicates()[:MAX_GROUPS_SHOWN],
        conflicts=found.conflicts[:MAX_GROUPS_SHOWN],
        sequences=found.sequences[:MAX_GROUPS_SHOWN],
        num_duplicates=len(found.duplicates()),
        samples=samples,
    )
    return page


def _describe_sizes(items: Sequence[Sample]) -> list[tuple[str, int]]:
    """How many images have a short side in each range."""
    ends = (32, 64, 128, 256, 512, 1024, 2048, 10**6)
    sides = [min(item.record.width, item.record.height) for item in items]
    rows, low = [], 0
    for end in ends:
        count = sum(low <= side < end for side in sides)
        if count:
            rows.append((f"{low} to {end - 1} px" if end < 10**6 else f"{low} px and more", count))
        low = end
    return rows

"""The reader of PromQL finds metrics and labels that are missing."""

from __future__ import annotations

import pytest

from tests.promql import find_missing, list_series, list_uses

TEXT = """\
# TYPE eyevsai_requests_total counter
eyevsai_requests_total{model="m",code="200"} 1
# TYPE eyevsai_request_seconds histogram
eyevsai_request_seconds_bucket{model="m",le="+Inf"} 1
eyevsai_request_seconds_sum{model="m"} 1
eyevsai_request_seconds_count{model="m"} 1
# TYPE eyevsai_rollout_share gauge
"""


@pytest.mark.parametrize(
    ("expression", "missing"),
    [
        ('sum by (model) (rate(eyevsai_requests_total{code=~"5.."}[5m])) > 0.01', []),
        ('rate(eyevsai_requests_total{arm="shadow"}[5m])', ["eyevsai_requests_total{arm}"]),
        ("sum by (version) (eyevsai_requests_total)", ["eyevsai_requests_total{version}"]),
        ("sum by (model, le) (eyevsai_request_seconds_bucket)", []),
        ("eyevsai_rollout_share", []),
        ("eyevsai_requests / eyevsai_reqests_total", ["eyevsai_requests", "eyevsai_reqests_total"]),
        ('up{job="eyevsai"} == 0', []),
    ],
)
def test_missing_metrics_and_labels_are_found(expression: str, missing: list[str]) -> None:
    assert find_missing(expression, list_series(TEXT)) == missing


def test_labels_of_matchers_and_aggregations_are_used() -> None:
    expression = 'max by (a, b) (rate(eyevsai_x{c!="1", d=~"(2|3)"}[5m])) / scalar(sum(eyevsai_y))'
    assert list_uses(expression) == {"eyevsai_x": {"a", "b", "c", "d"}, "eyevsai_y": set()}

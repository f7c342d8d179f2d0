"""Tables that commands print: their width, and that no cell is cut."""

from __future__ import annotations

from typing import Any

import pytest

from eyevsai.reports.comparison_table import print_comparison
from eyevsai.reports.registry_table import print_log, print_plan, print_status

DAY = "2026-03-03T12:00:00+00:00"
LONG = "the-name-of-a-person-that-is-longer-than-a-column"


def read_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the printed lines, which fit 100 columns and end with no space."""
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines == [line.rstrip() for line in lines]
    return lines


def make_version(**values: Any) -> dict[str, Any]:
    """A row of `registry status`."""
    return {
        "name": "pets-deep_v1-standard",
        "version": 12,
        "stage": "Production",
        "by_hand": False,
        "pinned": True,
        "aliases": ["production", "champion"],
        "accuracy": 0.912345,
        "valid_accuracy": None,
        "floor": "none set, chance 0.3345",
        "exports": {"onnx": "passed", "openvino-bf16": "passed"},
        "size_bytes": 12_345_678,
        "registered": DAY,
        "registered_by": "root",
        "promoted": DAY,
        "promoted_by": "root",
    } | values


def test_status_has_a_line_for_each_alias_and_export(capsys: pytest.CaptureFixture[str]) -> None:
    print_status([make_version()])
    title, header, first, second, third, *_ = read_lines(capsys)
    assert title == "pets-deep_v1-standard"
    assert header.split() == (
        ["stage", "accuracy", "floor", "exports", "MB", "registered", "promoted"]
    )
    assert " Production   0.9123 test  none set, chance 0.3345  onnx " in first
    assert second.split()[:2] == ["@production", "openvino-bf16"]
    assert third.split() == ["@champion"]


def test_long_cells_of_the_status_are_wrapped_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(
        [make_version(aliases=[LONG], exports={"openvino-bf16": "failed"}, registered_by=LONG)]
    )
    text = "".join("".join(read_lines(capsys)).split())
    for word in ("Production", "@the-name", "openvino-bf16", "2026-03-03"):
        assert word in text
    assert "…" not in text


def test_log_and_plan_fit(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "the new camera needs it, and the old model fails on half of the images"
    entry = {"time": DAY, "user": LONG, "action": "promote", "forced": True, "status": "FINISHED"}
    entry |= {"versions": "3", "stage": "production", "before": 2, "after": 3, "reason": reason}
    print_log([entry])
    read_lines(capsys)
    item = {"type": "run", "target": "f" * 32, "size_bytes": 1234567, "reason": reason}
    plan = {"items": [item], "kept": {"models:/pets/3": f"{reason}, {reason}"}, "bytes": 1234567}
    print_plan(plan, verbose=True)
    first, second, *kept, last = read_lines(capsys)
    assert first == f"run  {'f' * 32}  1,234,567  the new camera needs it, and the old model fails"
    assert second == "     on half of the images"
    assert " ".join(kept).split() == f"kept: models:/pets/3: {reason}, {reason}".split()
    assert last == "1 items, 1,234,567 bytes"


def test_comparison_has_four_digits_and_counts_settings_of_one_family(
    capsys: pytest.CaptureFixture[str],
) -> None:
    interval = {"low": 0.6251, "high": 0.81254}
    metrics = {"accuracy": 0.725, "loss": 0.66919, "ece": 0.00123456, "images_per_s": 2451.77}
    models = [
        {"title": f"models:/pets-{name}/1", "interval": interval, "metrics": metrics}
        for name in ("shallow-svm_hog_lbp", "deep_v1-standard")
    ]
    difference = {"only_first": 2, "only_second": 39, "p_value": 7.8412e-10}
    pair = {"first": models[0]["title"], "second": models[1]["title"], "difference": difference}
    settings = {"image_size": [64, 32], "lr": [None, 0.006], "C": [3.0, None]}
    print_comparison({"models": models, "images": 80, "settings": settings, "pairs": [pair]})
    printed = read_lines(capsys)
    lines = [line.split() for line in printed]
    assert ["accuracy", "0.7250", "0.7250"] in lines
    assert ["ece", "0.0012", "0.0012"] in lines
    assert ["images_per_s", "2,452", "2,452"] in lines
    assert ["image_size", "64", "32"] in lines
    assert "2 settings that not all of the models have are on the page." in printed
    assert not any(line[:1] == ["lr"] for line in lines)

"""Links to pages of MLflow's UI."""

from __future__ import annotations

import pytest

from eyevsai.store.ui_links import (
    comparison_page,
    make_link,
    model_page,
    run_page,
    runs_page,
    version_page,
)


def test_pages_select_the_view_for_model_training() -> None:
    view = "workflowType=machine_learning"
    assert runs_page("3") == f"/#/experiments/3/runs?{view}"
    assert runs_page("3", "eyevsai") == f"/#/experiments/3/runs?{view}&viewStateShareKey=eyevsai"
    assert run_page("3", "ab") == f"/#/experiments/3/runs/ab?{view}"
    assert comparison_page(["3", "3"], ["ab", "cd"]) == (
        "/#/compare-runs?runs=%5B%22ab%22,%22cd%22%5D&experiments=%5B%223%22%5D&" + view
    )
    assert model_page("pets-deep_v1") == f"/#/models/pets-deep_v1?{view}"
    assert version_page("a b?", 7) == f"/#/models/a%20b%3F/versions/7?{view}"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sqlite:////data/mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql+psycopg://ada:secret@db/mlflow", "http://127.0.0.1:5000"),
        ("https://mlflow.example.org/", "https://mlflow.example.org"),
        ("http://ada:secret@host:5000", "http://***@host:5000"),
    ],
)
def test_link_has_the_address_of_the_ui_without_passwords(uri: str, address: str) -> None:
    assert make_link(uri, run_page("1", "ab")) == f"{address}{run_page('1', 'ab')}"

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from eyevsai.models.families import FAMILIES, family_of
from tests.conftest import Eyevsai, write_images

ALL = [(family, name) for family in FAMILIES for name in family_of(family).variations]


def test_list_describes_models_and_datasets(eyevsai: Eyevsai, tmp_path: Path) -> None:
    write_images(tmp_path / "root" / "beans", {"a": 3, "b": 3})
    write_images(tmp_path / "root" / "beans_of_all_the_world", {"a": 3, "b": 3})
    root = ("--data-root", str(tmp_path / "root"))
    lines = eyevsai("list", *root).stdout.splitlines()
    names = {line.split()[0] for line in lines if line.startswith("  ")}  # none touches what is said of it
    assert names >= {"beans", "beans_of_all_the_world", *(variation for _, variation in ALL)}
    inventory = json.loads(eyevsai("list", "--json", *root).stdout)
    assert list(inventory["models"]["deep_v1"]["variations"]) == ["standard", "residual"]
    assert list(inventory["datasets"]) == ["digits", "beans", "beans_of_all_the_world", "combined_all"]


def test_doctor_says_what_to_mend(eyevsai: Eyevsai, workplace: Path) -> None:
    assert "MEND" not in eyevsai("doctor").stdout
    with sqlite3.connect(workplace / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'ffff00001111'")
    database.close()
    findings = {finding["subject"]: finding for finding in json.loads(eyevsai("doctor", "--json", code=1).stdout)}
    assert set(findings) == {"python", "packages", "compute", "disk", "data", "store"}
    assert not findings["store"]["ok"]
    assert "newer MLflow" in findings["store"]["text"]


def test_doctor_creates_the_store_only_when_asked(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "mlflow.db").unlink()
    assert "doctor --init" in eyevsai("doctor").stdout
    assert not (workplace / "mlflow.db").exists()
    eyevsai("doctor", "--init")
    assert (workplace / "mlflow.db").stat().st_size > 100_000


def test_an_unknown_command_names_the_nearest(eyevsai: Eyevsai) -> None:
    assert "'train'" in eyevsai("trian", code=2).stderr


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_describe_says_what_a_model_is_made_of(eyevsai: Eyevsai, family: str, variation: str) -> None:
    command = ("describe", "--model", family, "--variation", variation, "--num-classes", "7")
    card = eyevsai(*command).stdout
    about = family_of(family).variations[variation]
    assert about.papers
    for text in (about.technical, about.simple, *about.papers, "probabilities of 7 classes"):
        assert text in card
    described = json.loads(eyevsai(*command, "--json").stdout)
    assert described["layers"]
    if described["flops"] is not None:
        assert f"{described['parameters']:,}" in card
        smaller = json.loads(eyevsai(*command, "--json", "--image-size", "48").stdout)
        assert smaller["flops"] < described["flops"]
        assert smaller["parameters"] == described["parameters"]


def test_operations_are_counted_as_by_hand(eyevsai: Eyevsai) -> None:
    given = ("--image-size", "32", "--width", "4", "--head-units", "0", "--num-classes", "5")
    described = json.loads(eyevsai("describe", "--model", "deep_v1", *given, "--json").stdout)
    widths, sides = [3, 4, 8, 16, 32], [32, 16, 8, 4]
    convolutions = [9 * a * b * side**2 for a, b, side in zip(widths, widths[1:], sides, strict=False)]
    assert described["flops"] == 2 * (sum(convolutions) + 32 * 5)

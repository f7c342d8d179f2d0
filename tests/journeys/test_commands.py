from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.conftest import Eyevsai, write_images


def test_list_describes_models_and_datasets(eyevsai: Eyevsai, tmp_path: Path) -> None:
    write_images(tmp_path / "root" / "beans", {"a": 3, "b": 3})
    root = ("--data-root", str(tmp_path / "root"))
    text = eyevsai("list", *root).stdout
    assert "residual" in text
    assert "beans" in text
    inventory = json.loads(eyevsai("list", "--json", *root).stdout)
    assert list(inventory["models"]["deep_v1"]["variations"]) == ["standard", "residual"]
    assert list(inventory["datasets"]) == ["digits", "beans", "combined_all"]


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

"""The wheel that a version carries: from the same code the same bytes, wherever it is packed."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

import eyevsai
from eyevsai.core import extras
from eyevsai.core.errors import UserError
from eyevsai.core.version import VERSION
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.serving import wheel
from eyevsai.serving.model_dir import check_model_dir, hash_model_dir, model_size, write_model_dir
from eyevsai.serving.wheel import pack_wheel
from tests.conftest import ROOT


def split_files(files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the path and the bytes of the wheel."""
    (name,) = (name for name in files if name.endswith(".whl"))
    return name, files[name]


@pytest.fixture(scope="module")
def packed() -> dict[str, bytes]:
    return pack_wheel()


@pytest.fixture(scope="module")
def made(stripes: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = load_dataset(DataSettings(data=str(stripes), cache_dir=str(cache_dir)))
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=4), dataset.classes, 0)
    valid = dataset.open(learner.preprocessing).valid
    return write_model_dir(learner, valid, tmp_path_factory.mktemp("made"), {})


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "package"))


def test_wheel_has_all_tracked_files_with_a_right_record(packed: dict[str, bytes]) -> None:
    name, content = split_files(packed)
    project, version, build, _ = parse_wheel_filename(Path(name).name)
    assert (project, version.public, build) == ("eyevsai", VERSION, ())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    about = f"eyevsai-{version}.dist-info"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "eyevsai"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    tracked = {path for path in listed if (ROOT / path).is_file()}
    assert {path for path in files if not path.startswith(about)} == tracked
    record = {row[0]: row[1:] for row in csv.reader(files[f"{about}/RECORD"].decode().splitlines())}
    assert record.pop(f"{about}/RECORD") == ["", ""]
    assert record.keys() == files.keys() - {f"{about}/RECORD"}
    for path, (digest, size) in record.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).decode()
        assert (digest, int(size)) == (f"sha256={expected.rstrip('=')}", len(files[path]))
    metadata = Parser().parsestr(files[f"{about}/METADATA"].decode())
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (metadata["Name"], metadata["Version"]) == ("eyevsai", str(version))
    required = {str(Requirement(text)) for text in metadata.get_all("Requires-Dist")}
    assert {str(Requirement(text)) for text in declared["dependencies"]} <= required
    assert set(metadata.get_all("Provides-Extra")) == declared["optional-dependencies"].keys()
    assert metadata["License-Expression"] == declared["license"]
    assert metadata.get_all("License-File") == declared["license-files"]
    for path in declared["license-files"]:
        assert files[f"{about}/licenses/{path}"] == (ROOT / path).read_bytes()
    assert (
        f"eyevsai = {declared['scripts']['eyevsai']}" in files[f"{about}/entry_points.txt"].decode()
    )


def test_bytes_are_the_same_from_a_checkout_and_from_an_installation(
    packed: dict[str, bytes], tmp_path: Path
) -> None:
    _, content = split_files(packed)
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # as pip installs a wheel
        archive.extractall(installed)
    for path in installed.rglob("*.py"):
        os.utime(path, (1, 1))
    (installed / "eyevsai" / "__pycache__").mkdir(exist_ok=True)
    (installed / "eyevsai" / "__pycache__" / "api.cpython-311.pyc").write_bytes(b"x")
    (installed / "eyevsai" / ".api.py.swp").write_bytes(b"x")
    code = (
        "import hashlib, json\nfrom eyevsai.serving import wheel\n"
        "print(wheel.__file__, json.dumps({name: hashlib.sha256(content).hexdigest() "
        "for name, content in wheel.pack_wheel().items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, _, hashes = done.stdout.partition(" ")
    assert Path(file).is_relative_to(installed)
    assert json.loads(hashes) == {
        path: hashlib.sha256(content).hexdigest() for path, content in packed.items()
    }


def test_other_code_and_other_requirements_have_another_version(
    packed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {split_files(packed)[0]}
    for path, old, new in [
        ("eyevsai/core/version.py", "Version of", "The version of"),
        ("pyproject.toml", '"rich>=14"', '"rich>=15"'),
    ]:
        root = tmp_path / Path(path).stem
        shutil.copytree(ROOT / "eyevsai", root / "eyevsai")
        shutil.copy(ROOT / "pyproject.toml", root)
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new))
        monkeypatch.setattr(wheel, "PACKAGE", root / "eyevsai")
        monkeypatch.setattr(extras, "CHECKOUT", root / "pyproject.toml")
        names.add(split_files(pack_wheel())[0])
    assert len(names) == 3


def test_version_names_its_wheel_and_pins_the_requirements_of_eyevsai(made: Path) -> None:
    lines = (made / "requirements.txt").read_text().split()
    reference = lines[0].removeprefix("--requirement=")
    options, pin = (made / reference).read_text().splitlines()
    assert options == "--find-links ."
    name = f"{pin.replace('==', '-')}-py3-none-any.whl"
    assert ((made / reference).parent / name).read_bytes().startswith(b"PK")
    pins = {Requirement(line).name: Requirement(line).specifier for line in lines[1:]}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {Requirement(text).name for text in declared} <= pins.keys()
    assert all(str(pin).startswith("==") and "+" not in str(pin) for pin in pins.values())
    environment = yaml.safe_load((made / "conda.yaml").read_text())
    assert environment["dependencies"][-1]["pip"] == lines
    assert any(path.endswith(".whl") for path in hash_model_dir(made))
    without = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    without -= sum(path.stat().st_size for path in (made / "wheels").iterdir())
    assert model_size(made) == without


def test_mlflow_does_not_warn_about_the_wheel(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow.pyfunc

    mlflow.pyfunc.load_model(str(made))
    assert "mismatches" not in capsys.readouterr().err


@pytest.mark.parametrize("change", ["edit", "remove", "add", "rename", "unlisted"])
def test_a_changed_wheel_is_refused(package: Path, change: str) -> None:
    check_model_dir(package)
    (path,) = (package / "wheels").glob("*.whl")
    if change == "edit":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "remove":
        path.unlink()
    elif change == "add":
        (package / "wheels" / "torch-99-py3-none-any.whl").write_bytes(b"x")
    else:
        described = yaml.safe_load((package / "MLmodel").read_text())
        name = f"wheels/{path.name}"
        digest = described["metadata"]["wheel_sha256"].pop(name)
        if change == "rename":
            described["metadata"]["wheel_sha256"]["wheels/../../evil.whl"] = digest
        (package / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(UserError, match="refused"):
        eyevsai.load(str(package))


@pytest.mark.parametrize("metadata", [{}, None, {"run_id": "x"}], ids=str)
def test_a_version_without_a_wheel_loads(package: Path, metadata: object) -> None:
    shutil.rmtree(package / "wheels")
    described = yaml.safe_load((package / "MLmodel").read_text())
    described["metadata"] = metadata
    if metadata is None:
        del described["metadata"]
    (package / "MLmodel").write_text(yaml.safe_dump(described))
    assert eyevsai.load(str(package)).classes == ("across", "down", "wide")


def test_without_metadata_a_version_is_stored_without_a_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def not_found(name: str) -> None:
        raise wheel.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "CHECKOUT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(wheel.metadata, "distribution", not_found)
    with caplog.at_level("WARNING", "eyevsai"):
        assert pack_wheel() == {}
    assert "without the wheel" in caplog.text

"""Models of a server are fetched into the cache, verified there, and verified on the server before
a promotion.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TRAINED, Eyevsai, move_paths
from tests.robustness.test_store import Server

NAME = TRAINED["deep_v1"]
URI = f"models:/{NAME}/1"


@pytest.fixture(scope="module")
def server(trained_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return an MLflow server that has the trained versions and serves their artifacts."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(trained_store / "mlflow.db", folder)
    shutil.copytree(trained_store / "mlruns", folder / "artifacts")
    move_paths(folder / "mlflow.db", trained_store / "mlruns", Path("mlflow-artifacts:"))
    server = Server(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that temporary files are written to."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def workplace(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("EYEVSAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entries(workplace: Path) -> list[Path]:
    return sorted(path for path in (workplace / "cache" / "models").iterdir() if path.is_dir())


def weights_of(folder: Path) -> Path:
    (found,) = folder.rglob("model.safetensors")
    return found


@pytest.mark.processes("an MLflow server")
def test_fetched_model_is_kept_once_and_verified(
    eyevsai: Eyevsai, workplace: Path, temporary: Path, trained_store: Path
) -> None:
    image = str(next((trained_store / "data").rglob("*.png")))
    first = eyevsai("predict", URI, image).stdout
    for _ in range(2):
        assert eyevsai("predict", URI, image).stdout == first
    assert list(temporary.iterdir()) == []
    (entry,) = entries(workplace)
    size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    assert f"{size / 1e6:.1f} MB" in eyevsai("data", "cache").stdout

    weights = weights_of(entry)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    repaired = eyevsai("predict", URI, image)
    assert repaired.stdout == first
    assert "is damaged; rebuilding it" in repaired.stderr
    assert entries(workplace) == [entry]
    assert "freed" in eyevsai("data", "cache", "--clear").stdout
    assert entries(workplace) == []


@pytest.mark.processes("an MLflow server")
def test_promotion_verifies_the_files_on_the_server(
    eyevsai: Eyevsai, server: Server, workplace: Path, temporary: Path, trained_store: Path
) -> None:
    name = TRAINED["deep_v2"]
    image = str(next((trained_store / "data").rglob("*.png")))
    eyevsai("predict", f"models:/{name}/1", image)
    (entry,) = entries(workplace)
    good = weights_of(entry).read_bytes()
    (there,) = (
        path
        for path in (server.folder / "artifacts").rglob("model.safetensors")
        if path.read_bytes() == good
    )
    # of the same size: the copy in the cache stays valid
    there.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    eyevsai("predict", f"models:/{name}/1", image)
    refused = eyevsai("promote", name, "--version", "1", code=1).stderr
    assert "model.safetensors is not the file that was saved: its SHA-256 differs" in refused
    shutil.rmtree(there.parents[2])
    gone = eyevsai("predict", f"models:/{name}/1", image, code=2).stderr
    assert f"The files of models:/{name}/1 are missing: mlflow-artifacts:" in gone
    assert list(temporary.iterdir()) == []


@pytest.mark.processes("an MLflow server")
def test_model_is_fetched_where_the_cache_cannot_be_written(
    eyevsai: Eyevsai, workplace: Path, trained_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "file").write_text("no folder")
    monkeypatch.setenv("EYEVSAI_CACHE", str(workplace / "file"))
    said = eyevsai("predict", URI, str(next((trained_store / "data").rglob("*.png"))))
    assert "is not writable: the model is downloaded for this process only" in said.stderr

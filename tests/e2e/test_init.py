"""`eyevsai init`: the files of a project, which are complete or absent, and never overwritten."""

from __future__ import annotations

import io
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from mlflow.projects import _project_spec
from mlflow.utils.environment import _PythonEnv

from eyevsai.workflows.system import project
from tests.conftest import ROOT, Eyevsai

SHARED = (".gitignore", "MLproject", "conda.yaml", "mlruns/.gitkeep")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    return tmp_path


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def without_header(text: bytes) -> bytes:
    return text.partition(b"\n")[2]


def test_a_project_has_the_entry_points_of_this_one_and_the_wheel(
    eyevsai: Eyevsai, tmp_path: Path
) -> None:
    printed = eyevsai("init", "some/project", PATH=str(tmp_path)).stdout
    assert f"Project in {tmp_path / 'some' / 'project'}: " in printed
    assert "--env-manager=uv" in printed  # the PATH has another python, as with pipx
    files = read_files(tmp_path / "some" / "project")
    (wheel,) = (path for path in files if path.startswith("wheels/"))
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "entrypoints").glob("*.py")}
    assert files.keys() == {*SHARED, *modules, wheel}
    assert f'"./{wheel}"' in files["conda.yaml"].decode()
    for path in modules:
        assert files[path] == (ROOT / path).read_bytes()
    assert without_header(files["MLproject"]) == without_header((ROOT / "MLproject").read_bytes())
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert set(files[".gitignore"].decode().splitlines()) <= set(ignored)
    with zipfile.ZipFile(io.BytesIO(files[wheel])) as archive:
        assert archive.testzip() is None
        assert "eyevsai/cli/entrypoint.py" in archive.namelist()


def test_mlflow_reads_the_environment_of_a_project(eyevsai: Eyevsai, tmp_path: Path) -> None:
    eyevsai("init", "--extras", "openvino,tensorflow")
    environment = _project_spec.load_project(str(tmp_path))
    assert "train" in environment._entry_points
    packages = _PythonEnv.from_conda_yaml(environment.env_config_path).dependencies
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert packages[-1] == f"./wheels/{wheel.name}[openvino,tensorflow]"
    assert packages[0] == f"mlflow=={metadata.version('mlflow')}"
    before = read_files(tmp_path)
    assert "Did you mean 'openvino'?" in eyevsai("init", "x", "--extras", "opnvino", code=2).stderr
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("path", [*SHARED, "entrypoints/train.py"])
def test_an_existing_file_is_named_and_nothing_is_written(
    eyevsai: Eyevsai, tmp_path: Path, path: str
) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("mine\n")
    before = read_files(tmp_path)
    error = eyevsai("init", code=2).stderr
    assert f"{path} exists already." in error
    assert "--force" in error
    assert read_files(tmp_path) == before


def test_other_files_stay_and_a_link_to_nothing_exists(eyevsai: Eyevsai, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "MLproject").symlink_to("nowhere")
    assert "MLproject exists already" in eyevsai("init", code=2).stderr
    eyevsai("init", "--force")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "MLproject").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_force_overwrites_and_keeps_the_lines_of_gitignore(
    eyevsai: Eyevsai, tmp_path: Path
) -> None:
    path = str(Path(sys.executable).parent)
    assert "--env-manager=local" in eyevsai("init", "fresh", PATH=path).stdout
    for name in ("eyevsai-0.0.9-py3-none-any.whl", "other-1-py3-none-any.whl"):
        (tmp_path / "old" / "wheels").mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / "wheels" / name).write_bytes(b"")
    assert "wheels/eyevsai-0.0.9-py3-none-any.whl exists" in eyevsai("init", "old", code=2).stderr
    (tmp_path / "old" / "MLproject").write_text("mine")
    (tmp_path / "old" / ".gitignore").write_bytes(b"/mine/\r\n/data/\r\nlast")
    eyevsai("init", "old", "--force")
    old, fresh = read_files(tmp_path / "old"), read_files(tmp_path / "fresh")
    lines = old.pop(".gitignore").decode().splitlines()
    new = fresh.pop(".gitignore").decode().splitlines()
    assert lines == ["/mine/", "/data/", "last", *(line for line in new if line != "/data/")]
    assert old.pop("wheels/other-1-py3-none-any.whl") == b""
    assert old == fresh
    eyevsai("init", "old", "--force")
    assert (tmp_path / "old" / ".gitignore").read_text().splitlines() == lines


@pytest.mark.parametrize("moves", [0, 1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_restores_the_folder(
    eyevsai: Eyevsai,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moves: int,
    error: BaseException,
) -> None:
    (tmp_path / "project" / "wheels").mkdir(parents=True)
    (tmp_path / "project" / "MLproject").write_text("mine")
    (tmp_path / "project" / ".gitignore").write_text("mine")
    (tmp_path / "project" / "wheels" / "eyevsai-0.0.9-py3-none-any.whl").write_text("mine")
    before, replace, calls = read_files(tmp_path), Path.replace, list[Path]()

    def replace_some(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == moves + 1:
            raise error
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_some)
    code = 2 if isinstance(error, OSError) else 130
    stderr = eyevsai("init", "project", "--force", code=code).stderr
    assert ("No space left on device" in stderr) == (code == 2)
    assert read_files(tmp_path) == before
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == [
        ".gitignore",
        "MLproject",
        "wheels",
    ]


def test_a_failed_write_leaves_no_new_folder(
    eyevsai: Eyevsai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    eyevsai("init", "new/project", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(eyevsai: Eyevsai, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        assert "Cannot write" in eyevsai("init", folder, code=2).stderr
    (tmp_path / "project" / "conda.yaml").mkdir(parents=True)
    error = eyevsai("init", "project", "--force", code=2).stderr
    assert f"Cannot write {tmp_path / 'project' / 'conda.yaml'}: it is a folder." in error
    assert list((tmp_path / "project").iterdir()) == [tmp_path / "project" / "conda.yaml"]


def test_a_package_without_metadata_is_refused(
    eyevsai: Eyevsai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "pack_wheel", dict)
    assert "Cannot pack the wheel of eyevsai" in eyevsai("init", "project", code=2).stderr
    assert not (tmp_path / "project").exists()

"""Of a hostile model folder nothing runs, and the refusal says why."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251  # to make what must be refused
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

import eyevsai
from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import build, get_family
from eyevsai.models.serialization import add_checksum
from eyevsai.serving.model_dir import write_model_dir
from tests.conftest import Eyevsai

EVIL = "open({marker!r}, 'w').close()\n"


class Marking:
    """Unpickling it writes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (str(self.marker),)


def edit_mlmodel(package: Path, **flavor: object) -> None:
    path = package / "MLmodel"
    described = yaml.safe_load(path.read_text())
    described["flavors"]["python_function"].update(flavor)
    path.write_text(yaml.safe_dump(described))


def edit_card(package: Path, **values: object) -> None:
    path = package / "data" / "model" / "model.json"
    path.write_text(json.dumps(add_checksum(json.loads(path.read_text()) | values)))


def hide_pickle(package: Path, marker: Path) -> None:
    (package / "model.pkl").write_bytes(pickle.dumps(Marking(marker)))
    edit_mlmodel(package, loader_module="mlflow.sklearn", model_path="model.pkl", data="model.pkl")


def hide_cloudpickle(package: Path, marker: Path) -> None:
    import cloudpickle

    (package / "python_model.pkl").write_bytes(cloudpickle.dumps(Marking(marker)))
    edit_mlmodel(package, loader_module="mlflow.pyfunc.model", python_model="python_model.pkl")


def name_loader(package: Path, marker: Path) -> None:
    (package / "data" / "model" / "evil.py").write_text(EVIL.format(marker=str(marker)))
    edit_mlmodel(package, loader_module="evil")


def bring_code(package: Path, marker: Path) -> None:
    (package / "code" / "eyevsai").mkdir(parents=True)
    for name in ("sitecustomize.py", "eyevsai/__init__.py"):
        (package / "code" / name).write_text(EVIL.format(marker=str(marker)))
    edit_mlmodel(package, code="code")


def name_code(package: Path, marker: Path) -> None:
    outside = package.parent / "elsewhere"
    outside.mkdir()
    (outside / "torch.py").write_text(EVIL.format(marker=str(marker)))
    edit_mlmodel(package, code="../elsewhere")


def add_torch_pickle(package: Path, marker: Path) -> None:
    torch.save(Marking(marker), package / "data" / "model" / "model.pth")


def disguise_torch_pickle(package: Path, marker: Path) -> None:
    weights = package / "data" / "model" / "model.safetensors"
    torch.save(Marking(marker), weights)
    edit_card(package, sha256=hash_file(weights))


def add_skops(package: Path, marker: Path) -> None:
    (package / "model.skops").write_bytes(pickle.dumps(Marking(marker)))
    path = package / "MLmodel"
    described = yaml.safe_load(path.read_text())
    described["flavors"]["sklearn"] = {
        "pickled_model": "model.skops",
        "serialization_format": "skops",
    }
    path.write_text(yaml.safe_dump(described))


def leave_folder(package: Path, marker: Path) -> None:
    outside = package.parent / "outside"
    shutil.copytree(package / "data" / "model", outside)
    torch.save(Marking(marker), outside / "model.safetensors")
    edit_mlmodel(package, data="../outside")


def link_out(package: Path, marker: Path) -> None:
    weights, outside = (
        package / "data" / "model" / "model.safetensors",
        package.parent / "outside.safetensors",
    )
    torch.save(Marking(marker), outside)
    weights.unlink()
    weights.symlink_to(outside)


def run_yaml(package: Path, marker: Path) -> None:
    path = package / "MLmodel"
    path.write_text(path.read_text() + f"evil: !!python/object/apply:os.mkdir [{str(marker)!r}]\n")


def muddle_flavor(package: Path, marker: Path) -> None:
    del marker
    path = package / "MLmodel"
    path.write_text(
        yaml.safe_dump(yaml.safe_load(path.read_text()) | {"flavors": {"python_function": "evil"}})
    )


def name_family(package: Path, marker: Path) -> None:
    del marker
    edit_card(package, family="os:system")


HOSTILE: dict[Callable[[Path, Path], None], str] = {
    hide_pickle: "model.pkl is not part",
    hide_cloudpickle: "python_model.pkl is not part",
    name_loader: "evil.py is not part",
    bring_code: "code/.* is not part",
    name_code: "other code or data to load",
    add_torch_pickle: "model.pth is not part",
    disguise_torch_pickle: "safetensors",
    add_skops: "model.skops is not part",
    leave_folder: "other code or data to load",
    link_out: "model.safetensors is not part",
    run_yaml: "cannot be read",
    name_family: "no model 'os:system'",
    muddle_flavor: "its loader is",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, stripes: Path, cache_dir: Path) -> Path:
    dataset = load_dataset(DataSettings(data=str(stripes), cache_dir=str(cache_dir)))
    settings = get_family("deep_v1").variations["standard"].settings(image_size=32, width=4)
    learner = build("deep_v1", "standard", settings, dataset.classes, seed=0)
    return write_model_dir(
        learner, dataset.open(learner.preprocessing).valid, tmp_path_factory.mktemp("own"), {}
    )


@pytest.mark.requirement(10)
@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
def test_a_hostile_folder_is_refused_and_nothing_of_it_runs(
    package: Path,
    tmp_path: Path,
    workplace: Path,
    eyevsai: Eyevsai,
    spoil: Callable[[Path, Path], None],
) -> None:
    folder, marker = tmp_path / "spoiled" / "package", tmp_path / "marker"
    shutil.copytree(package, folder)
    assert load(folder).classes == ("across", "down", "wide")
    spoil(folder, marker)
    with pytest.raises(UserError, match=HOSTILE[spoil]):
        load(folder)
    client = MlflowClient()
    run = client.create_run("0", tags={"eyevsai.job": "train"})
    client.log_dict(run.info.run_id, {"seed": 0}, "config.json")
    client.create_registered_model("evil")
    client.create_model_version("evil", str(folder), run.info.run_id)
    with pytest.raises(UserError, match=HOSTILE[spoil]):
        load("models:/evil/1")
    done = eyevsai("evaluate", "--model-uri", "models:/evil/1", code=2)
    assert re.search(HOSTILE[spoil], done.stderr)
    assert "Traceback" not in done.stderr
    assert not marker.exists()


def load(where: Path | str) -> eyevsai.Classifier:
    return eyevsai.load(str(where))

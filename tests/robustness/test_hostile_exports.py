"""Hostile exports: whoever writes a file may write its checksum too; still nothing of it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import eyevsai
from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.formats.base import ExportSource
from eyevsai.formats.export import export
from eyevsai.formats.parity import ReferenceData
from eyevsai.models.factory import build as build_learner
from eyevsai.models.factory import get_family
from tests.conftest import ROOT, draw_image, once
from tests.robustness.mutation import mutate
from tests.robustness.test_hostile import EVIL, Marking

FORMATS = ("onnx", "openvino", "pytorch")  # what is opened without trust


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an export of each of FORMATS; never write to it."""

    def build(folder: Path) -> None:
        settings = get_family("deep_v1").variations["standard"].settings(image_size=32, width=4)  # type: ignore[call-arg]
        learner = build_learner("deep_v1", "standard", settings, ("a", "b", "c"), seed=0)
        squares = np.stack([draw_image(number % 3, number, 37, 37) for number in range(4)])
        reference = ReferenceData(
            learner,
            list("abcd"),
            squares,
            lambda: list(squares),
            lambda: [(squares, np.zeros(4, int))],
        )
        for name in FORMATS:
            source = ExportSource(learner, "0" * 64, None, lambda: squares)
            assert export(name, source, reference, folder / name, "models:/a/1").failures == []

    return once(tmp_path_factory, "hostile-exports", build)


def sign(folder: Path) -> None:
    """Makes the manifest name the files that are there."""
    path = folder / "manifest.json"
    files = {
        each.relative_to(folder).as_posix(): hash_file(each)
        for each in folder.rglob("*")
        if each.is_file() and each != path
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))


def pickle_weights(folder: Path, marker: Path) -> None:
    torch.save({"network": Marking(marker)}, folder / "model.pth")


def pickle_safetensors(folder: Path, marker: Path) -> None:
    torch.save(Marking(marker), folder / "model.safetensors")


def write_code(folder: Path, marker: Path) -> None:
    for name in ("network.py", "example.py", "sitecustomize.py", "torch.py"):
        (folder / name).write_text(EVIL.format(marker=str(marker)))


def pickle_onnx(folder: Path, marker: Path) -> None:
    torch.save(Marking(marker), folder / "model.onnx")


def read_elsewhere(folder: Path, marker: Path) -> None:
    """A tensor of the graph lies in a file outside."""
    secret = folder.parent / "secret"
    secret.write_bytes(b"\0" * 4096)
    model = onnx.load(folder / "model.onnx")
    tensor = next(
        each
        for each in model.graph.initializer
        if each.data_type == TensorProto.FLOAT and len(each.dims) == 4
    )
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    del marker


def call_another_library(folder: Path, marker: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    model.graph.node.insert(
        0, helper.make_node("Run", ["images"], ["ran"], domain="evil", command=f"touch {marker}")
    )
    model.opset_import.append(helper.make_opsetid("evil", 1))
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def tear_onnx(folder: Path, marker: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    del marker


def tear_openvino(folder: Path, marker: Path) -> None:
    content = (folder / "model.xml").read_bytes()
    (folder / "model.xml").write_bytes(content[: len(content) // 2])
    del marker


def read_past_the_weights(folder: Path, marker: Path) -> None:
    path = folder / "model.xml"
    path.write_text(path.read_text().replace('offset="0"', 'offset="99999999999"'))
    del marker


HOSTILE: dict[Callable[[Path, Path], None], tuple[str, str]] = {
    pickle_weights: ("pytorch", "no valid pytorch export"),
    pickle_safetensors: ("pytorch", "SHA-256"),
    pickle_onnx: ("onnx", "no valid onnx export"),
    read_elsewhere: ("onnx", "no valid onnx export"),
    call_another_library: ("onnx", "no valid onnx export"),
    tear_onnx: ("onnx", "no valid onnx export"),
    tear_openvino: ("openvino", "no valid openvino export"),
    read_past_the_weights: ("openvino", "no valid openvino export"),
}


ASK = """
import sys
import numpy as np
import eyevsai
from eyevsai.core.errors import UserError
try:
    eyevsai.load(sys.argv[1]).predict(np.zeros((37, 37, 3), np.uint8))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def ask_process(folder: Path) -> tuple[int, str]:
    """Open an export in a process of its own, and predict: 1 and the reason when it is refused,
    else 0.
    """
    command = [sys.executable, "-c", ASK, str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=200, check=False
    )
    return done.returncode, done.stderr


def ask_here(folder: Path) -> tuple[int, str]:
    """Do the same in this process."""
    try:
        eyevsai.load(str(folder)).predict(np.zeros((37, 37, 3), np.uint8))
    except UserError as error:
        return 1, f"refused: {error}"
    return 0, ""


Ask = Callable[[Path], tuple[int, str]]
ASKED = [ask_here, pytest.param(ask_process, marks=pytest.mark.slow)]


@pytest.mark.requirement(10)
@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
def test_a_hostile_export_is_refused_and_nothing_of_it_runs(
    exports: Path, spoil: Callable[[Path, Path], None], tmp_path: Path, ask: Ask
) -> None:
    name, reason = HOSTILE[spoil]
    folder, marker = Path(shutil.copytree(exports / name, tmp_path / name)), tmp_path / "marker"
    spoil(folder, marker)
    sign(folder)
    code, said = ask(folder)
    assert code == 1, said
    assert f"refused: {folder}" in said
    assert reason in said
    assert not marker.exists()


@pytest.mark.requirement(10)
@pytest.mark.parametrize("ask", ASKED)
def test_python_files_beside_a_model_are_not_run(exports: Path, tmp_path: Path, ask: Ask) -> None:
    folder, marker = (
        Path(shutil.copytree(exports / "pytorch", tmp_path / "pytorch")),
        tmp_path / "marker",
    )
    write_code(folder, marker)
    sign(folder)
    assert ask(folder) == (0, "")
    assert not marker.exists()
    assert str(folder) not in sys.path


def test_a_graph_of_other_classes_is_told(exports: Path, tmp_path: Path) -> None:
    # which names no classes of its own
    folder = Path(shutil.copytree(exports / "openvino", tmp_path / "openvino"))
    change(folder, classes=["a", "b"])
    with pytest.raises(UserError, match="returns 3 probabilities per image"):
        eyevsai.load(str(folder)).predict(draw_image(0, 0))


def change(folder: Path, **fields: object) -> None:
    """Writes other fields into the manifest; those that are `...` go."""
    path = folder / "manifest.json"
    changed = json.loads(path.read_text()) | fields
    path.write_text(
        json.dumps({name: value for name, value in changed.items() if value is not ...})
    )


SIZES = {
    "image_size": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", ...),
        ("format", ["onnx"]),
        ("family", ...),
        ("family", 7),
        ("variation", ...),
        ("threshold", ...),
        ("threshold", "x"),
        ("threshold", -0.1),
        ("threshold", float("nan")),
        ("threshold", True),
        ("settings", ...),
        ("settings", []),
        ("classes", ...),
        ("classes", 10),
        ("classes", "abc"),
        ("classes", []),
        ("classes", [["a"]]),
        ("classes", ["a", "a", "a"]),
        ("classes", ["a", "b", 3]),
        ("preprocessing", ...),
        ("preprocessing", "x"),
        ("preprocessing", SIZES | {"image_size": "32"}),
        ("preprocessing", SIZES | {"image_size": -5}),
        ("preprocessing", SIZES | {"image_size": 32.0}),
        ("preprocessing", SIZES | {"image_size": 20_000}),
        ("preprocessing", SIZES | {"interpolation": "nope"}),
        ("preprocessing", SIZES | {"mean": [0.5]}),
        ("preprocessing", SIZES | {"std": [0, 1, 1]}),
        ("files", ...),
        ("files", ["model.onnx"]),
        ("files", {"a": 1}),
    ],
    ids=str,
)
def test_a_field_of_the_manifest_that_is_not_what_it_should_be_is_named(
    exports: Path, tmp_path: Path, name: str, field: str, value: object
) -> None:
    folder = Path(shutil.copytree(exports / name, tmp_path / name))
    change(folder, **{field: value})
    with pytest.raises(UserError) as refused:
        eyevsai.load(str(folder))
    said = str(refused.value)
    assert str(folder / "manifest.json") in said
    assert field in said
    assert said.endswith("Export the model again.")


@pytest.mark.parametrize("name", ["onnx", "pytorch"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", ["a", "c", "b"]),
        ("classes", ["a", "b"]),
        ("family", "deep_v2"),
        ("variation", "residual"),
        ("preprocessing", SIZES),
        ("preprocessing", SIZES | {"image_size": 48}),
        ("threshold", 0.5),
        ("format", "onnx-int8"),
    ],
    ids=str,
)
def test_a_manifest_that_says_something_else_than_the_file_is_refused(
    exports: Path, tmp_path: Path, name: str, field: str, value: object
) -> None:
    if name == "pytorch" and field in ("threshold", "format"):
        pytest.skip("its card has none")
    folder = Path(shutil.copytree(exports / name, tmp_path / name))
    change(folder, **{field: value})
    with pytest.raises(UserError, match=f"has {field} .* but the exported file has"):
        eyevsai.load(str(folder))


@pytest.mark.parametrize("count", [150, pytest.param(600, marks=pytest.mark.slow)])
def test_a_damaged_manifest_is_refused_or_changes_no_answer(
    exports: Path, tmp_path: Path, count: int
) -> None:
    folder, random, refused = (
        Path(shutil.copytree(exports / "onnx", tmp_path / "onnx")),
        np.random.default_rng(3),
        [],
    )
    whole, image = (folder / "manifest.json").read_bytes(), draw_image(1, 1)
    expected = eyevsai.load(str(folder)).predict(image)
    for number in range(count):
        (folder / "manifest.json").write_bytes(mutate(bytearray(whole), number % 6, random))
        try:
            assert eyevsai.load(str(folder)).predict(image) == expected, number
        except UserError as error:
            refused.append(str(error))
    assert all(str(folder) in said for said in refused)
    assert count / 2 < len(refused) < count


def test_an_export_that_says_nothing_of_what_came_later_still_opens(
    exports: Path, tmp_path: Path
) -> None:
    """As exports of the first days, whose manifests have these fields and whose ONNX files have no
    metadata.
    """
    folder = Path(shutil.copytree(exports / "onnx", tmp_path / "onnx"))
    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    sign(folder)
    change(folder, weights_sha256=..., parity=..., versions=..., model_uri=...)
    image = draw_image(1, 1)
    assert eyevsai.load(str(folder)).predict(image) == eyevsai.load(str(exports / "onnx")).predict(
        image
    )

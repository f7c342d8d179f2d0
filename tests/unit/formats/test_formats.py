"""Parity checks refuse exports that differ from their model; changed folders are not opened."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import distributions, requires
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement

import eyevsai
from eyevsai.core.errors import UserError
from eyevsai.core.json_schema import load_validator
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.features.extractor import Extractor
from eyevsai.features.settings import FeatureSettings
from eyevsai.formats import pytorch
from eyevsai.formats.base import ExportSource
from eyevsai.formats.export import export, make_parity_check
from eyevsai.formats.factory import FORMATS, get_format, parse_formats
from eyevsai.formats.manifest_schema import validate_manifest
from eyevsai.formats.onnx_versions import describe_versions, find_release, save_onnx
from eyevsai.formats.openvino import OpenVino
from eyevsai.formats.other_formats import REPLACEMENTS
from eyevsai.formats.parity import AccuracyParityCheck, ExactParityCheck, ParityCheck, ReferenceData
from eyevsai.formats.pytorch import render_network
from eyevsai.formats.settings import ExportSettings
from eyevsai.formats.tensorflow import TensorFlow
from eyevsai.formats.tracing import OPSET, suppress_warnings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.transfer.settings import INTERPOLATIONS
from tests.conftest import ROOT, draw_image
from tests.json_schemas import list_undescribed

# one worker imports what writes ONNX, which takes seconds
pytestmark = pytest.mark.xdist_group("onnx")
SIDE, IMAGES = 37, 40


class Shifted:
    """A learner whose answers are changed on their way."""

    def __init__(self, learner: DeepV1Learner, change: Callable[[np.ndarray], None]) -> None:
        self.learner, self.change = learner, change

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        found = self.learner.predict_proba(images)
        self.change(found)
        return found


@pytest.fixture(scope="module")
def learner(stripes: Path, cache_dir: Path) -> DeepV1Learner:
    dataset = load_dataset(DataSettings(data=str(stripes), cache_dir=str(cache_dir)))
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=4), dataset.classes, 0)
    assert learner.preprocessing.short_side_px == SIDE
    return learner


@pytest.fixture(scope="module")
def reference(learner: DeepV1Learner) -> ReferenceData:
    squares = np.stack([draw_image(number % 3, number, SIDE, SIDE) for number in range(IMAGES)])
    labels = learner.predict_proba(squares).argmax(1)
    raw = [draw_image(number % 3, number, 50 + number, 70) for number in range(IMAGES)]
    return ReferenceData(
        learner,
        [f"image {number}" for number in range(IMAGES)],
        squares,
        lambda: raw,
        lambda: [(squares, labels)],
    )


def nothing(found: np.ndarray) -> None:
    del found


def a_little(found: np.ndarray) -> None:
    found[0, 0] += 2e-5


def too_much_for_trees(found: np.ndarray) -> None:
    found[0, 0] += 0.03


def no_number(found: np.ndarray) -> None:
    found[0, 0] = np.nan


def another_class(found: np.ndarray) -> None:
    found[:] = np.roll(found, 1, axis=1)


EXACT, STEPS, FEWER_BITS = (
    ExactParityCheck(1e-5, piecewise_constant=False),
    ExactParityCheck(1e-5, piecewise_constant=True),
    AccuracyParityCheck(1.0, 0.98),
)


@pytest.mark.parametrize(
    ("check", "change", "reason"),
    [
        (EXACT, nothing, None),
        (STEPS, nothing, None),
        (FEWER_BITS, nothing, None),
        (FEWER_BITS, a_little, None),
        (EXACT, a_little, "differ by up to 2e-05"),
        (EXACT, no_number, "differ by up to inf"),
        (STEPS, too_much_for_trees, "differ by up to 0.03"),
        (STEPS, another_class, "have the model's class"),
        (EXACT, another_class, "From raw images"),
        (FEWER_BITS, another_class, "a loss of more than 1 points"),
    ],
)
@pytest.mark.requirement(21)
def test_a_parity_check_refuses_what_does_not_agree(
    learner: DeepV1Learner,
    reference: ReferenceData,
    check: ParityCheck,
    change: Callable[[np.ndarray], None],
    reason: str | None,
) -> None:
    result = check.check(Shifted(learner, change), reference)
    assert bool(result.failures) == (reason is not None)
    assert reason is None or any(reason in failure for failure in result.failures), result.failures


def test_a_refusal_says_where_the_outputs_part(
    learner: DeepV1Learner, reference: ReferenceData
) -> None:
    def change(found: np.ndarray) -> None:
        if len(found) == 7:  # the batches of seven, from the sixth of them on
            found[6, 2] = 0.9

    failure, *_ = EXACT.check(Shifted(learner, change), reference).failures
    assert failure.startswith(
        "From the same resized pixels, in batches of 7, probabilities differ by up to"
    )
    assert f"differs most: {learner.classes[2]} is 0." in failure
    assert failure.endswith("and 0.900000 in the export.")


def test_a_parity_check_compares_batches_of_each_size(
    learner: DeepV1Learner, reference: ReferenceData
) -> None:
    class Close(DeepV1Learner):
        def predict_proba(self, images: np.ndarray) -> np.ndarray:
            return np.tile(np.float32([0.40, 0.39, 0.21]), (len(images), 1))

    calls = []

    def change(found: np.ndarray) -> None:
        calls.append(len(found))
        if len(found) == 7 and calls.count(7) == 1:
            # which one of a forest's images may lie apart
            found[0] += np.float32([0.0199, 0, -0.0199])
        if len(found) == 32:
            found += np.float32([-0.018, 0.018, 0])  # less far, and another class for each

    close = Close("standard", learner.settings, learner.classes, 0)
    names, resized = [*reference.names] * 5, np.tile(reference.resized, (5, 1, 1, 1))
    result = STEPS.check(
        Shifted(close, change), replace(reference, learner=close, names=names, resized=resized)
    )
    assert any(
        "in batches of 32" in failure and "the model's class" in failure
        for failure in result.failures
    )
    assert result.metrics["top1_agreement"] < 0.5


def test_a_parity_check_refuses_another_number_of_classes(
    learner: DeepV1Learner, reference: ReferenceData
) -> None:
    class Two:
        def predict_proba(self, images: np.ndarray) -> np.ndarray:
            return learner.predict_proba(images)[:, :2]

    failure, *_ = EXACT.check(Two(), reference).failures
    assert "returns probabilities of shape (40, 2), the model of shape (40, 3)" in failure


@pytest.mark.parametrize("check", [FEWER_BITS, AccuracyParityCheck(1.0, 0.0)])
def test_fewer_bits_are_compared_on_raw_images_too(
    learner: DeepV1Learner, reference: ReferenceData, check: ParityCheck
) -> None:
    def change(found: np.ndarray) -> None:
        if len(found) == 1:
            another_class(found)

    (failure,) = check.check(Shifted(learner, change), reference).failures
    assert failure.startswith("From raw images, the export predicts the model's class for ")


@pytest.mark.requirement(21)
@pytest.mark.parametrize(("others", "refused"), [(1, False), (2, True)])
def test_int8_has_to_name_the_models_class_for_97_percent(
    learner: DeepV1Learner, reference: ReferenceData, others: int, refused: bool
) -> None:
    """Answers of equal accuracy are not enough: of 40 images, one may be given another class."""
    squares, answers = reference.resized, learner.predict_proba(reference.resized).argmax(1)
    labels = (answers + 1) % 3  # the model is always wrong, so no other answer lowers the accuracy
    wrong = replace(reference, test=lambda: [(squares, labels)])

    def change(found: np.ndarray) -> None:
        if len(found) == len(squares):
            another_class(found[:others])

    source = ExportSource(learner, "0" * 64, None, lambda: squares)
    result = make_parity_check(get_format("onnx-int8"), source).check(
        Shifted(learner, change), wrong
    )
    assert result.metrics["accuracy"] >= result.metrics["model_accuracy"] == 0
    assert result.metrics["top1_agreement"] == 1 - others / len(squares)
    assert bool(result.failures) == refused
    if refused:
        assert (
            "predicts the model's class for 95.00% of 40 test images; 97% are required"
            in result.failures[0]
        )


SPOILT = """
given = predict_proba


def predict_proba(state, images):
    return given(state, images).roll(1, dims=1)
"""


@pytest.mark.requirement(21)
def test_the_parity_check_runs_the_network_file_of_a_pytorch_export(
    learner: DeepV1Learner,
    reference: ReferenceData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = ExportSource(learner, "0" * 64, None, lambda: reference.resized)
    before = set(sys.modules)
    assert export("pytorch", source, reference, tmp_path / "whole", "models:/a/1").failures == []
    assert "network" not in set(sys.modules) - before
    assert not list(tmp_path.rglob("__pycache__"))
    monkeypatch.setattr(pytorch, "render_network", lambda *given: render_network(*given) + SPOILT)
    first, *_ = export("pytorch", source, reference, tmp_path / "spoilt", "models:/a/1").failures
    assert first.startswith("From the same resized pixels")
    monkeypatch.setattr(
        pytorch,
        "render_network",
        lambda *given: render_network(*given) + "raise ValueError('torn')",
    )
    with pytest.raises(ValueError, match="torn"):
        export("pytorch", source, reference, tmp_path / "torn", "models:/a/1")


EXTRAS = ("tensorflow", "dev")


def test_of_tensorflow_only_the_build_for_cpus_is_installed() -> None:
    """Two builds overwrite one another's files; a converter that asks for another would bring it
    along.
    """
    found = {str(each.metadata["Name"]).lower().replace("_", "-") for each in distributions()}
    builds = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "intel-tensorflow")
    assert len(found.intersection(builds)) == 1
    required = map(Requirement, requires("eyevsai") or ())
    applying = {
        each.name
        for each in required
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in EXTRAS)
    }
    # tensorflow-cpu has no wheels for ARM processors
    has_wheels = platform.machine() in ("x86_64", "AMD64")
    assert ("tensorflow-cpu" in applying, "tensorflow" in applying) == (has_wheels, not has_wheels)
    assert not any(re.match(r"(tensorflow|tf)-(?!cpu$)", each) for each in applying)


def test_a_tie_may_be_broken_either_way(learner: DeepV1Learner, reference: ReferenceData) -> None:
    class Tied(DeepV1Learner):
        def predict_proba(self, images: np.ndarray) -> np.ndarray:
            return np.tile(np.float32([0.45, 0.45, 0.1]), (len(images), 1))

    tied = Tied("standard", learner.settings, learner.classes, 0)

    def other(found: np.ndarray) -> None:
        found[:, 1] += 5e-6

    assert EXACT.check(Shifted(tied, other), replace(reference, learner=tied)).failures == []


@pytest.fixture(scope="module")
def exported(
    learner: DeepV1Learner, reference: ReferenceData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    result = export(
        "onnx",
        ExportSource(learner, "0" * 64, None, lambda: reference.resized),
        reference,
        folder,
        "models:/a/1",
    )
    assert result.failures == []
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(exported, tmp_path / "onnx"))


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def add_a_file(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit")


def remove_a_file(folder: Path) -> None:
    (folder / "example.py").unlink()


def link_out(folder: Path) -> None:
    outside = folder.parent / "elsewhere.onnx"
    (folder / "model.onnx").rename(outside)
    (folder / "model.onnx").symlink_to(outside)


def rename_the_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": "os:system"}))


def tear_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": "onnx", ')


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (flip_a_bit, "SHA-256 differs"),
        (add_a_file, "evil.py is not part"),
        (remove_a_file, "example.py is missing"),
        (link_out, "is not the exported file"),
        (rename_the_format, "os:system"),
        (tear_the_manifest, "cannot be read"),
    ],
)
@pytest.mark.requirement(23)
def test_an_export_that_was_changed_is_not_opened(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    eyevsai.load(str(folder / "model.onnx"))
    spoil(folder)
    with pytest.raises(UserError, match=reason):
        eyevsai.load(str(folder))


MANIFEST = {
    "format": "onnx",
    "family": "deep_v1",
    "variation": "standard",
    "classes": ["a", "b"],
    "preprocessing": {
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
    },
    "settings": {},
    "threshold": None,
    "files": {"model.onnx": "0" * 64},
}
HUGE = 10**400  # more than a float holds


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("threshold", HUGE, "has threshold 1(0{79}), not null or a number from 0 to 1"),
        ("threshold", float("inf"), "has threshold Infinity, not null or a number from 0 to 1"),
        ("classes", ["a", ""], r'has classes\[1\] "", not the name of a class'),
        ("classes", ["a", "a"], r'has classes \["a", "a"\], not a list of names, each once'),
        ("preprocessing.image_size", HUGE, "image_size 1(0{79}), not a whole number from 1 to"),
        ("preprocessing.image_size", True, "image_size true, not a whole number from 1 to 2048"),
        ("preprocessing.mean", [0, 0, HUGE], r"mean\[2\] 1(0{79}), not a finite number"),
        ("preprocessing.std", [1, 1, 0], r"std\[2\] 0, not a finite number above 0"),
        ("preprocessing", {}, "lacks preprocessing.image_size, preprocessing.mean, "),
        ("files", {"a/\ud800": 1}, r'has files\["a/\\ud800"\] 1, not the SHA-256 of the file'),
    ],
    ids=["huge", "infinite", "empty", "twice", "huge size", "bool", "mean", "std", "lacks", "file"],
)
def test_an_invalid_field_of_a_manifest_is_named(path: str, value: object, error: str) -> None:
    manifest = deepcopy(MANIFEST)
    validate_manifest(manifest, "manifest.json")
    *parents, name = path.split(".")
    parent = manifest
    for key in parents:
        parent = parent[key]  # type: ignore[assignment]
    parent[name] = value
    with pytest.raises(UserError, match=rf"^manifest.json .*{error}.*\. Export the model again.$"):
        validate_manifest(manifest, "manifest.json")


def test_a_manifest_that_is_no_object_is_refused() -> None:
    with pytest.raises(UserError, match=r"^manifest.json is \[\], not an object. Export"):
        validate_manifest([], "manifest.json")


def test_the_schema_of_manifests_is_valid() -> None:
    schema = load_validator("eyevsai.formats", "manifest.json").schema
    Draft202012Validator.check_schema(schema)
    preprocessing = schema["properties"]["preprocessing"]["properties"]
    assert preprocessing["interpolation"]["enum"] == list(INTERPOLATIONS)
    assert list_undescribed(schema) == []


@pytest.mark.requirement(10)
def test_what_can_hold_code_is_opened_only_on_trust(
    learner: DeepV1Learner, reference: ReferenceData, tmp_path: Path
) -> None:
    source = ExportSource(learner, "0" * 64, None, lambda: reference.resized)
    export("torchscript", source, reference, tmp_path / "torchscript", "models:/a/1")
    with pytest.raises(UserError, match="trusted=True"):
        eyevsai.load(str(tmp_path / "torchscript"))
    trusted = eyevsai.load(str(tmp_path / "torchscript"), trusted=True)
    assert (
        trusted.predict(reference.resized[0]).label
        == learner.classes[learner.predict_proba(reference.resized[:1]).argmax()]
    )


def test_onnx_says_of_itself_what_it_is(folder: Path, learner: DeepV1Learner) -> None:
    import onnx

    proto = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(proto)
    said = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert said["classes"] == list(learner.classes)
    assert said["preprocessing"] == json.loads(json.dumps(learner.preprocessing.to_json()))
    assert said["threshold"] is None
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    assert [each.dim_param for each in dimensions[:3]] == ["batch", "height", "width"]
    assert "/" not in "".join(
        node.doc_string + str(node.metadata_props) for node in proto.graph.node
    )


def test_onnx_files_declare_the_lowest_versions(exported: Path) -> None:
    import onnx

    proto = onnx.load(exported / "model.onnx")
    opsets = [(each.domain, each.version) for each in proto.opset_import]
    assert (proto.ir_version, opsets) == (8, [("", 18)])
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["onnx"] == {"opset": 18, "ir_version": 8, "min_onnxruntime": "1.14"}


@pytest.mark.parametrize(
    ("operation", "opset", "ir_version"),
    [("Relu", 16, 8), ("Identity", 16, 8), ("Gelu", 20, 9)],
)
def test_the_nodes_of_branches_count_for_the_opset(
    tmp_path: Path, operation: str, opset: int, ir_version: int
) -> None:
    from onnx import TensorProto, helper, load

    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xyz")
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    branch = helper.make_graph([helper.make_node(operation, ["x"], ["y"])], "branch", [], [y])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    imports = [helper.make_opsetid("", 20 if operation == "Gelu" else 18)]
    imports.append(helper.make_opsetid("ai.onnx.ml", 5))  # which no node uses
    graph = helper.make_graph([node], "graph", [x, condition], [z])
    save_onnx(helper.make_model(graph, opset_imports=imports), tmp_path / "model.onnx")
    versions = describe_versions(tmp_path / "model.onnx")
    assert (versions["opset"], versions["ir_version"]) == (opset, ir_version)
    assert [each.domain for each in load(tmp_path / "model.onnx").opset_import] == [""]


# https://onnxruntime.ai/docs/reference/compatibility.html
@pytest.mark.parametrize(
    ("opset", "ir_version", "release"),
    [
        (13, 7, "1.6"),
        (15, 8, "1.9"),
        (17, 8, "1.12"),
        (18, 8, "1.14"),
        (18, 9, "1.16"),
        (18, 10, "1.18"),
        (20, 9, "1.17"),
        (21, 10, "1.18"),
    ],
)
def test_the_oldest_runtime_of_opset_and_ir_version(
    opset: int, ir_version: int, release: str
) -> None:
    assert find_release(opset, ir_version) == release


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("tflite", "ONNX Runtime Mobile runs the onnx export"),
        ("TF-Lite", "ONNX Runtime Mobile runs the onnx export"),
        ("coreml", "ONNX Runtime Mobile runs the onnx export"),
        ("ncnn", "Its own tools convert the onnx export: use --format onnx."),
        ("mnn", "Its own tools convert the onnx export: use --format onnx."),
        ("ort", "use --format onnx."),
        ("saved_model", "use --format tensorflow."),
        ("keras", "use --format tensorflow."),
        (".h5", "use --format tensorflow."),
        ("trt", "use --format tensorrt."),
        ("torch-script", "Use --format torchscript."),
        ("TorchScript", "Use --format torchscript."),
        ("jit", "use --format torchscript."),
        ("ONNX", "Use --format onnx."),
        ("int8", "use --format onnx-int8."),
        ("onxn", "Did you mean 'onnx'?"),
    ],
)
def test_formats_of_other_tools_are_answered_with_the_one_to_use(name: str, answer: str) -> None:
    with pytest.raises(UserError, match=re.escape(answer)) as raised:
        ExportSettings(run="a", format=f"onnx,{name}")
    assert f"There is no format {name!r}" in str(raised.value)


def test_replacements_of_formats_name_formats_and_hide_none() -> None:
    words = [word for words, _ in REPLACEMENTS for word in words.split()]
    assert len(words) == len(set(words))
    assert not set(words) & set(FORMATS)
    for _, text in REPLACEMENTS:
        assert set(re.findall(r"--format ([\w-]+)", text)) <= set(FORMATS)


def test_formats_are_named_with_commas() -> None:
    assert parse_formats("openvino, onnx,onnx") == ["onnx", "openvino"]
    assert parse_formats("all") == list(FORMATS)
    with pytest.raises(UserError, match="Did you mean 'openvino'"):
        ExportSettings(run="a", format="onnx,openvio")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prune_epochs": 3}, "--prune-epochs 3 requires --prune"),
        ({"per_dataset": 2}, "--per-dataset 2 requires --package"),
    ],
)
def test_settings_without_effect_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExportSettings(run="a", **values)  # type: ignore[arg-type]
    assert ExportSettings(run="a", prune=0.5, prune_epochs=3).prune_epochs == 3


def test_an_extra_that_is_not_installed_is_named_with_its_command(learner: DeepV1Learner) -> None:
    class Elsewhere(OpenVino):
        extra = ("openvino", "a_module_that_is_nowhere")

    with pytest.raises(
        UserError, match=r"--format openvino needs the extra.*: eyevsai install openvino --run"
    ):
        Elsewhere().check(learner)


class Erf(torch.nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.special.erf(logits)


@pytest.mark.parametrize(
    ("layers", "operation"),
    [
        ([Erf()], r"operation special_erf\.default"),
        (
            [torch.nn.Unflatten(1, (1, 1, -1)), torch.nn.MaxPool2d((1, 2), dilation=(1, 2))],
            r"max_pool2d with dilation \[1, 2\]",
        ),
        (
            [torch.nn.Unflatten(1, (1, 1, -1)), torch.nn.AvgPool2d((1, 2), divisor_override=3)],
            "avg_pool2d with divisor_override 3",
        ),
    ],
)
def test_an_operation_that_tensorflow_does_not_support_is_named(
    learner: DeepV1Learner, tmp_path: Path, layers: list[torch.nn.Module], operation: str
) -> None:
    class Odd(DeepV1Learner):
        def build_network(self) -> torch.nn.Module:
            return torch.nn.Sequential(super().build_network(), *layers, torch.nn.Flatten())

    odd = Odd("standard", learner.settings, learner.classes, 0)
    with pytest.raises(UserError, match=f"{operation}: use --format onnx"):
        TensorFlow().write(
            ExportSource(odd, "0" * 64, None, lambda: np.zeros((1, SIDE, SIDE, 3), np.uint8)),
            tmp_path,
        )


LOADED = """
import gc, os, signal, sys
from pathlib import Path
import numpy as np
from eyevsai.formats.factory import get_format
from eyevsai.formats.openvino import OpenVino
runtime = OpenVino().open(Path(sys.argv[1]))
for side in (37, 50):  # resized already, and not
    runtime.predict_proba(np.zeros((1, side, side, 3), np.uint8))
del runtime
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)

try: get_format("tensorflow").open(Path(sys.argv[1]) / "none")
except OSError: pass  # there is no such folder, but TensorFlow is loaded
assert "tensorflow" in sys.modules
import torch
torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
print("traced")
"""


@pytest.fixture(scope="module")
def openvino_export(
    learner: DeepV1Learner, reference: ReferenceData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("openvino")
    OpenVino().write(ExportSource(learner, "0" * 64, None, lambda: reference.resized), folder)
    return folder


def test_signals_are_handled_and_graphs_traced_after_other_runtimes_were_loaded(
    openvino_export: Path,
) -> None:
    """A runtime that leaves disorder behind ends the process.

    Each model that OpenVINO compiles gives its thread a stack for signals, and puts back that of
    another one, which is gone; Triton crashes where it is loaded after TensorFlow.
    """
    command = [sys.executable, "-c", LOADED, str(openvino_export)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\ntraced\n"), done.stderr


def test_openvino_counts_the_features_that_the_model_counts(tmp_path: Path) -> None:
    """It divides by multiplying with the reciprocal, which puts quotients on the other side of a
    border.
    """
    import openvino

    crops = torch.randint(
        0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    crops[1:, :, :, :2] //= 32  # so that many share a few hues
    extractor = Extractor(FeatureSettings(), 32).eval()
    program = torch.export.export(
        extractor, (crops,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    with suppress_warnings():
        converted = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
    assert converted is not None
    converted.save(tmp_path / "features.onnx")
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    with ThreadPoolExecutor(1) as pool:  # see OpenVinoRuntime
        model = pool.submit(
            openvino.Core().compile_model, tmp_path / "features.onnx", "CPU", hint
        ).result()
    found = np.array(model([crops.numpy()])[0])
    wanted = extractor.extract(crops).numpy()
    assert np.abs(found - wanted).max() <= 1e-6


def test_an_image_without_edges_has_the_same_features_in_onnx() -> None:
    """The optimizer of ONNX graphs removes additions of scalars below 1e-8."""
    import onnxruntime

    crops = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    crops[1], crops[2, :16] = 255, 90  # flat, and flat in a part
    extractor = Extractor(FeatureSettings(), 32).eval()
    program = torch.export.export(extractor, (crops,))
    with suppress_warnings():
        converted = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
    assert converted is not None
    session = onnxruntime.InferenceSession(converted.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: crops.numpy()})
    assert np.abs(found - extractor.extract(crops).numpy()).max() <= 1e-6

"""What every export format promises, over FORMATS and one variation of each family, at 32 px."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eyevsai
from eyevsai.core.errors import UserError
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.formats.base import ExportSource
from eyevsai.formats.export import export
from eyevsai.formats.factory import FORMATS, get_format
from eyevsai.formats.parity import ReferenceData
from eyevsai.models.factory import build
from eyevsai.models.learner import NetworkModel
from tests.conftest import draw_image
from tests.contract.test_learners import ALL, mixed_images, tiny
from tests.robustness.test_images import awkward_images

QUICK = [("deep_v1", "residual"), ("shallow", "rf_hog_lbp")]
PAIRS = [
    pytest.param(
        pair,
        id="/".join(pair),
        marks=[
            pytest.mark.xdist_group("/".join(pair)),
            *([] if pair in QUICK else [pytest.mark.slow]),
        ],
    )
    for pair in ALL
]
OTHERS = {"eyevsai", "torch", "onnxruntime", "openvino", "tensorflow", "onnx", "sklearn", "mlflow"}
RUNTIMES = {
    "onnxruntime": ("onnx", "onnx-int8"),
    "openvino": ("openvino", "openvino-bf16"),
    "torch": ("pytorch", "pt2", "torchscript"),
    "tensorflow": ("tensorflow",),
}
END = "=" * 20 + "\n"
SHOW = """
import runpy, sys
others, banned, aside = {others!r}, set(), []
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for runtime, folder in {examples!r}:
    banned = others - {{runtime}}
    for name in [name for name in sys.modules if name.partition(".")[0] in banned]:
        aside.append(sys.modules.pop(name))
    sys.path.insert(0, folder)
    sys.argv = ["example.py", {image!r}]
    runpy.run_path(folder + "/example.py", run_name="__main__")
    sys.path.remove(folder)
    print({end!r}, end="", flush=True)
"""


class Leaving:
    """A fitted learner, its reference data, and its exports, each made at its first use."""

    def __init__(self, pair: tuple[str, str], source: Path, cache: Path, folder: Path) -> None:
        dataset = load_dataset(DataSettings(data=str(source), cache_dir=str(cache)))
        self.learner = build(*pair, tiny(*pair), dataset.classes, seed=0)
        self.learner.prepare(dataset.labels_of("train"))
        data: Data = dataset.open(self.learner.preprocessing)
        self.learner.fit(data.train, data.valid, lambda epoch, row: None)
        side = self.learner.preprocessing.short_side_px
        self.source = ExportSource(self.learner, "0" * 64, 0.5, lambda: self.squares(side))
        self.raw = mixed_images()
        self.reference = ReferenceData(
            self.learner,
            [f"image {number}" for number in range(40)],
            self.squares(side),
            lambda: self.raw * 8,
            lambda: [(self.squares(side), np.arange(40) % 3)],
        )
        self.before = {name: tensor.clone() for name, tensor in self.learner.tensors().items()}
        if isinstance(self.learner, NetworkModel):
            self.learner.network.train()
        self.folder = folder
        self.made: dict[str, dict[str, float]] = {}

    def squares(self, side: int) -> np.ndarray:
        return np.stack([draw_image(number % 3, number, side, side) for number in range(40)])

    def export(self, name: str) -> Path:
        folder = self.folder / name
        if name not in self.made:
            self.made[name] = export(
                name, self.source, self.reference, folder, "models:/stripes/1"
            ).metrics
        return folder


@pytest.fixture(scope="module", params=PAIRS)
def leaving(
    request: pytest.FixtureRequest,
    stripes: Path,
    cache_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Leaving:
    return Leaving(request.param, stripes, cache_dir, tmp_path_factory.mktemp("exports"))


@pytest.fixture(params=FORMATS)
def name(request: pytest.FixtureRequest, leaving: Leaving) -> str:
    form = get_format(request.param)
    if form.networks_only and not isinstance(leaving.learner, NetworkModel):
        with pytest.raises(UserError, match="has no network"):
            form.check(leaving.learner)
        pytest.skip(f"{leaving.learner.family} has no network")
    return str(request.param)


def runtime_of(name: str) -> str:
    (found,) = (runtime for runtime, names in RUNTIMES.items() if name in names)
    return found


def is_exact(name: str) -> bool:
    return get_format(name).max_accuracy_loss is None


def test_it_says_what_the_model_says(leaving: Leaving, name: str) -> None:
    folder = leaving.export(name)
    classifier = eyevsai.load(str(folder), trusted=True)
    images = [*leaving.raw, *leaving.reference.resized[:3]]
    expected = leaving.learner.predict_proba(images)
    found = np.array(
        [list(each.probabilities.values()) for each in classifier.predict_batch(images)]
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 if is_exact(name) else 0.2)
    assert classifier.classes == leaving.learner.classes
    assert classifier.threshold == 0.5
    assert classifier.metadata["format"] == name


@pytest.mark.requirement(17)
def test_it_sees_awkward_pictures_as_the_model_does(
    leaving: Leaving, name: str, tmp_path: Path
) -> None:
    pictures = awkward_images(tmp_path)
    classifier = eyevsai.load(str(leaving.export(name)), trusted=True)
    said = classifier.predict_batch(list(pictures))
    assert said == classifier.predict_batch(list(pictures.values()))
    if is_exact(name):
        found = np.array([list(each.probabilities.values()) for each in said])
        np.testing.assert_allclose(
            found, leaving.learner.predict_proba(list(pictures.values())), atol=1e-5
        )


def test_its_graph_resizes_as_the_model_does(leaving: Leaving, name: str) -> None:
    runtime = get_format(name).open(leaving.export(name))
    for image in leaving.raw:
        expected = leaving.learner.predict_proba([image])
        np.testing.assert_allclose(
            runtime.predict_proba(image[None]), expected, atol=1e-3 if is_exact(name) else 0.2
        )


def test_the_manifest_has_the_measured_parity(leaving: Leaving, name: str) -> None:
    folder = leaving.export(name)
    figures = json.loads((folder / "manifest.json").read_text())["parity"]
    assert figures == leaving.made[name]
    if is_exact(name):
        assert figures["max_difference"] <= 1e-5
        assert figures["top1_agreement"] == 1
        assert figures["raw_share_within"] >= 0.99


def test_its_manifest_names_every_file(leaving: Leaving, name: str) -> None:
    folder = leaving.export(name)
    manifest = json.loads((folder / "manifest.json").read_text())
    there = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert manifest["files"] == there
    assert {"example.py"} < set(there)
    assert manifest["model_uri"] == "models:/stripes/1"
    assert manifest["classes"] == list(leaving.learner.classes)


EXAMPLES = [
    pytest.param(each.values[0], id=each.id, marks=[*each.marks, pytest.mark.slow])
    if each.values[0] == ("shallow", "rf_hog_lbp")
    else each
    for each in PAIRS
]


@pytest.fixture
def examples(leaving: Leaving) -> list[tuple[str, str]]:
    """The runtime and the folder of each export that can be made of a learner, one runtime after
    another.
    """
    names = [
        name
        for name in FORMATS
        if name != "tensorrt"  # whose example needs an NVIDIA card
        and (isinstance(leaving.learner, NetworkModel) or not get_format(name).networks_only)
    ]
    names.sort(key=lambda name: list(RUNTIMES).index(runtime_of(name)))
    return [(runtime_of(name), str(leaving.export(name))) for name in names]


@pytest.mark.parametrize("leaving", EXAMPLES, indirect=True)
def test_examples_need_nothing_but_their_runtime(
    leaving: Leaving, examples: list[tuple[str, str]], tmp_path: Path
) -> None:
    """One process shows all: first those of ONNX Runtime, with all other libraries out of reach,
    and so on.
    """
    image = tmp_path / "image.png"
    Image.fromarray(draw_image(1, 7)).save(image)
    code = SHOW.format(others=OTHERS, examples=examples, image=str(image), end=END)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (expected,) = leaving.learner.predict_proba([draw_image(1, 7)])
    for (_, folder), printed in zip(examples, done.stdout.split(END)[:-1], strict=True):
        name = Path(folder).name
        said = [line.split("  ", 1) for line in printed.split("\n") if line]
        labels = [leaving.learner.classes[number] for number in expected.argsort()[::-1]]
        assert [label for _, label in said] == labels, name
        atol = 1e-3 if is_exact(name) else 0.2
        np.testing.assert_allclose(
            [float(p) for p, _ in said], np.sort(expected)[::-1], atol=atol, err_msg=name
        )


def test_exporting_leaves_the_learner_as_it_was(leaving: Leaving, name: str) -> None:
    leaving.export(name)
    assert all(
        torch.equal(tensor, leaving.before[key])
        for key, tensor in leaving.learner.tensors().items()
    )
    if isinstance(leaving.learner, NetworkModel):
        assert all(module.training for module in leaving.learner.network.modules())


@pytest.mark.requirement(22)
@pytest.mark.parametrize("rounds", [8, pytest.param(1000, marks=pytest.mark.slow)])
def test_eight_threads_are_told_what_one_is(leaving: Leaving, name: str, rounds: int) -> None:
    classifier = eyevsai.load(str(leaving.export(name)), trusted=True)
    alone = [classifier.predict(image).probabilities for image in leaving.raw]
    barrier = threading.Barrier(8)

    def ask(first: int) -> int:
        barrier.wait()
        indices = [(first + turn) % len(leaving.raw) for turn in range(rounds)]
        return sum(
            classifier.predict(leaving.raw[index]).probabilities == alone[index]
            for index in indices
        )

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [rounds] * 8

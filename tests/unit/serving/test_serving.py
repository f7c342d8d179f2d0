from __future__ import annotations

import base64
import os
import weakref
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from PIL import Image

import eyevsai
from eyevsai.core.errors import UserError
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.serialization import load
from eyevsai.serving.classifier import make_classifier
from eyevsai.serving.images import decode_cell, read_cell
from eyevsai.serving.model_dir import MODEL_FOLDER, write_model_dir
from eyevsai.serving.pyfunc import SERVED, PyfuncModel
from eyevsai.workflows.image_paths import find_images
from tests.conftest import draw_image


@pytest.fixture(scope="module")
def made(stripes: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = load_dataset(DataSettings(data=str(stripes), cache_dir=str(cache_dir)))
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=4), dataset.classes, 0)
    return write_model_dir(
        learner, dataset.open(learner.preprocessing).valid, tmp_path_factory.mktemp("made"), {}
    )


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / "package"))


def test_every_way_to_give_an_image_gives_the_same_answer(package: Path, tmp_path: Path) -> None:
    pixels = draw_image(1, 3)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    classifier = eyevsai.load(str(package))
    predictions = classifier.predict_batch([pixels, path, str(path), data])
    assert len({prediction.probability for prediction in predictions}) == 1
    model = PyfuncModel(classifier)
    table = model.predict(
        pd.DataFrame({"image": [str(path), data, base64.b64encode(data).decode(), pixels]})
    )
    assert list(table.columns) == ["label", "probability", "probabilities"]
    assert set(table["label"]) == {predictions[0].label}
    assert predictions[0].top(1) == [(predictions[0].label, predictions[0].probability)]
    assert sum(predictions[0].probabilities.values()) == pytest.approx(1, abs=1e-5)


def spell(data: bytes) -> dict[str, object]:
    """Return the spellings of an image file in base64, and arrays of its bytes."""
    plain = base64.b64encode(data)
    return {
        "plain": plain.decode(),
        "lines": base64.encodebytes(data).decode(),  # as `base64 FILE` prints
        "windows": base64.encodebytes(data).decode().replace("\n", "\r\n"),
        "byte_order_mark": "\ufeff" + plain.decode(),
        "spaces": f"  {plain.decode()}\t\n",
        "url": "data:image/png;base64," + plain.decode(),
        "url_lines": " DATA:image/png;charset=utf-8;Base64,\n" + base64.encodebytes(data).decode(),
        "url_escaped": "data:;base64," + quote(plain.decode(), safe=""),
        "url_safe": base64.urlsafe_b64encode(data).decode(),
        "unpadded": plain.decode().rstrip("="),
        "url_safe_unpadded": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "bytes": plain,
        "bytes_lines": base64.encodebytes(data),
        "numpy_text": np.str_(plain.decode()),
        "numpy_bytes": np.bytes_(plain),
        "numpy_object": np.array(plain.decode(), dtype=object),
        "file_bytearray": bytearray(data),
        "file_memoryview": memoryview(data),
        "file_numpy": np.frombuffer(data, np.uint8),
    }


def test_base64_in_every_spelling_is_the_image(package: Path, tmp_path: Path) -> None:
    classifier = eyevsai.load(str(package))
    model = PyfuncModel(classifier)
    for number, extra in enumerate((b"", b"x", b"xy")):  # all lengths of the padding
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw_image(1, number, 9, 7)).save(path)
        cells = spell(path.read_bytes() + extra)
        expected = classifier.predict(path.read_bytes()).probability
        table = model.predict(pd.DataFrame({"image": pd.Series(cells, dtype=object)}))
        assert dict(table["probability"]) == pytest.approx(dict.fromkeys(cells, expected))
    texts = pd.Series([cells["plain"], cells["url"]], dtype="string")
    assert list(model.predict(pd.DataFrame({"image": texts}))["probability"]) == pytest.approx(
        [expected] * 2
    )


def test_arrays_of_arrays_are_an_image(package: Path) -> None:
    classifier, pixels = eyevsai.load(str(package)), draw_image(1, 3, 5, 4)
    rows = np.empty(len(pixels), object)  # as pandas reads nested lists from Parquet
    for number, row in enumerate(pixels):
        rows[number] = np.empty(len(row), object)
        rows[number][:] = list(row)
    table = PyfuncModel(classifier).predict(pd.DataFrame({"image": [rows]}))
    assert set(table["probability"]) == {classifier.predict(pixels).probability}


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=400))
def test_base64_of_any_bytes_is_decoded_and_never_an_error_of_the_system(data: bytes) -> None:
    for text in (value for value in spell(data).values() if isinstance(value, str)):
        assert read_cell(text, paths=True) == data


@settings(max_examples=200)
@given(st.text(max_size=300) | st.binary(max_size=300) | st.none() | st.floats())
def test_a_cell_that_is_no_image_is_a_user_error(cell: object) -> None:
    for paths in (False, True):
        with pytest.raises(UserError):
            decode_cell(cell, paths=paths)


def test_a_prediction_below_the_threshold_is_unsure_on_wish(package: Path) -> None:
    classifier, image = eyevsai.load(str(package)), draw_image(1, 3)
    with pytest.raises(UserError, match="No threshold"):
        classifier.predict(image, unsure=True)
    said = classifier.predict(image)
    for threshold, label in [(said.probability, said.label), (said.probability + 1e-4, "unsure")]:
        classifier.threshold = threshold
        answer = classifier.predict(image, unsure=True)
        assert (answer.label, answer.probabilities) == (label, said.probabilities)
        assert classifier.predict(image).label == said.label


def test_images_are_read_one_after_another(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, alive, most = (
        [draw_image(number % 3, number, 40 + number, 50) for number in range(150)],
        [],
        0,
    )

    def watched(content: bytes, depth: object, **_: object) -> np.ndarray:
        nonlocal most
        picture = pictures[len(alive)].copy()
        alive.append(weakref.ref(picture))
        most = max(most, sum(each() is not None for each in alive))
        return picture

    classifier, asked = eyevsai.load(str(package)), []
    answer = classifier._model.predict_proba
    expected = answer(pictures)
    monkeypatch.setattr("eyevsai.serving.images.decode", watched)
    monkeypatch.setattr(
        classifier._model, "predict_proba", lambda some: asked.append(len(some)) or answer(some)
    )
    said = classifier.predict_batch([b"image"] * len(pictures))
    assert most <= 2  # the one that is resized, and the next
    assert asked == [128, 22]  # of small squares
    # to the bit
    np.testing.assert_array_equal([list(each.probabilities.values()) for each in said], expected)
    assert classifier.predict_batch([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
        "nowhere.png",
        b"no image",
        7,
    ],
    ids=str,
)
def test_what_is_no_image_is_said(package: Path, image: object) -> None:
    with pytest.raises(UserError):
        eyevsai.load(str(package)).predict(image)  # type: ignore[arg-type]


def test_a_server_takes_no_paths(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package / "image.png"
    Image.fromarray(draw_image(1, 3)).save(path)
    model = PyfuncModel(make_classifier(load(package / MODEL_FOLDER)))
    for cell in (str(path), path, str(path).encode()):
        monkeypatch.setenv(SERVED, "model")
        with pytest.raises(MlflowException, match="Record 1 of 1: "):
            model.predict(pd.DataFrame({"image": [cell]}))
        monkeypatch.delenv(SERVED)
    assert len(model.predict(pd.DataFrame({"image": [str(path), path]}))) == 2


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("ä", "'ä' is not base64"),
        ([[1, 2], [3]], "lists of unequal lengths"),
        ([[[256, 0, 0]]], "not 256."),
        ([[[0, -1, 0]]], "not -1."),
        ([[[0.5, 0.2, 1.9]]], "not 0.5."),
        ([[[float("nan"), 0, 0]]], "not nan."),
        ([[["a", "b", "c"]]], "lists of other values"),
        ([[[None, 0, 0]]], "lists of other values"),
        ([[[True, True, True]]], "lists of other values"),
        ([[[10**30, 0, 0]]], "lists of other values"),
        ([], "shape (0,)"),
        ([[1, 2, 3]], "shape (1, 3)"),
        ([[[[1, 2, 3]]]], "shape (1, 1, 1, 3)"),
        (["AAAA"], '{"dataframe_records": [{"image": ...}, ...]}'),
        (None, "not null."),
        ({"a": 1}, 'not {"a": 1}.'),
        ("AAAA", "not an image in a known format. It was read as base64: 'AAAA'."),
        (b"AAAA", "not an image in a known format"),
        ("", "'' is not base64. There is no such file either."),
        ("AAAAA", "'AAAAA' is not base64"),
        ("AAAA===", "is not base64"),
        ("AA=A", "is not base64"),
        ("data:image/png,AAAA", "is not base64"),
        ("nowhere/\0.png", "it is not a valid file name"),
        ("nowhere/\ud800.png", "it is not a valid file name"),
        (f"/tmp/{'x' * 300}.png", f"'/tmp/{'x' * 75}' is not base64. Cannot use '/tmp/"),
        ("." * 5000, "'...."),
        (pd.NA, "not "),
    ],
    ids=str,
)
def test_a_record_that_is_no_image_is_said(package: Path, cell: object, reason: str) -> None:
    good = [[[1, 2, 3]] * 4] * 4
    with pytest.raises(UserError) as refused:
        PyfuncModel(eyevsai.load(str(package))).predict(pd.DataFrame({"image": [good, cell, good]}))
    assert str(refused.value).startswith("Record 2 of 3: ")
    assert reason in str(refused.value)


def test_lists_of_pixels_are_an_image(package: Path) -> None:
    classifier, pixels = eyevsai.load(str(package)), draw_image(1, 3)
    cells = [pixels.tolist(), pixels.astype(float).tolist()]
    table = PyfuncModel(classifier).predict(pd.DataFrame({"image": cells}))
    assert set(table["probability"]) == {classifier.predict(pixels).probability}


def test_an_input_without_the_column_is_said(package: Path) -> None:
    with pytest.raises(UserError, match="column 'image'"):
        PyfuncModel(eyevsai.load(str(package))).predict(pd.DataFrame({"picture": ["x"]}))


@pytest.mark.parametrize(
    "name", ["code/evil.py", "data/model/model.pkl", "python_model.pkl", "data/evil.pt"]
)
def test_a_file_that_is_not_ours_is_refused(package: Path, name: str) -> None:
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_bytes(b"x")
    with pytest.raises(UserError, match="refused"):
        eyevsai.load(str(package))


@pytest.mark.parametrize(
    "change",
    [
        {"loader_module": "os"},
        {"code": "code"},
        {"data": "../elsewhere"},
        {"loader_module": "mlflow.sklearn"},
    ],
)
def test_an_mlmodel_that_names_something_else_is_refused(
    package: Path, change: dict[str, str]
) -> None:
    described = yaml.safe_load((package / "MLmodel").read_text())
    described["flavors"]["python_function"] |= change
    (package / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(UserError, match="refused"):
        eyevsai.load(str(package))


def test_a_link_out_of_the_folder_is_refused(package: Path, tmp_path: Path) -> None:
    target = package / "data" / "model" / "model.json"
    target.rename(tmp_path / "model.json")
    target.symlink_to(tmp_path / "model.json")
    with pytest.raises(UserError, match="refused"):
        eyevsai.load(str(package))


def test_what_is_no_model_is_said(workplace: Path) -> None:
    with pytest.raises(UserError, match="is not a model folder"):
        eyevsai.load(str(workplace))
    with pytest.raises(UserError, match="There is no model nowhere"):
        eyevsai.load("nowhere")
    with pytest.raises(UserError, match="There is no registered model 'none'"):
        eyevsai.load("models:/none/1")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 300, "File name too long"),
        (f"{'y/' * 3000}z", "File name too long"),
        ("null\0.png", "it is not a valid file name"),
        ("half\ud800.png", "it is not a valid file name"),
        ("~nobody-of-this-name/x.png", "There is no "),
        ("closed/x.png", "Permission denied"),
    ],
    ids=["long", "deep", "null", "surrogate", "user", "closed"],
)
def test_a_name_that_the_file_system_rejects_is_a_user_error(
    package: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    stat = os.stat

    def refuse(path: object, **options: object) -> os.stat_result:
        if "closed" in str(path):  # root may search all folders
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)  # type: ignore[arg-type]

    classifier = eyevsai.load(str(package))
    monkeypatch.setattr(os, "stat", refuse)
    for call in (
        lambda: classifier.predict(name),
        lambda: classifier.predict(Path(name)),
        lambda: find_images([name]),
    ):
        with pytest.raises(UserError, match=reason) as refused:
            call()
        assert len(str(refused.value)) < 300
    with pytest.raises(UserError):
        eyevsai.load(f"./{name}")

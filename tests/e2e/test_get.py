"""`eyevsai data download`: published datasets, from archives that are served here."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.data.sources import SOURCES, Archive
from tests.conftest import TINY_NETWORK, Eyevsai, experiments, find_port
from tests.e2e.conftest import MlflowRun
from tests.e2e.dataset_server import Publisher, images_of, png, publishing, tar_of, zip_of

FOODS, TUNES = "/nikolasgegenava/popular-street-foods", "/nikolasgegenava/music-instruments"
BREEDS = ("Abyssinian", "american_bulldog")
PETS = {
    f"images/{breed}_{number}.png": png(label, number)
    for label, breed in enumerate(BREEDS)
    for number in range(10)
}
OTHERS = {"images/Abyssinian_100.mat": b"MATLAB", "images/._Abyssinian_1.png": b"what macOS adds"}
LISTS = {
    f"annotations/{name}.txt": "".join(
        f"{breed}_{number} 1 1 1\n" for breed in BREEDS for number in numbers
    ).encode()
    for name, numbers in (("trainval", range(6)), ("test", range(6, 9)))
}


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A mirror with small archives of all datasets, and Kaggle as it looks through a proxy."""
    pets, lists = tar_of(PETS | OTHERS), tar_of(LISTS)
    vegetables = {
        f"Vegetable Images/{split}/{label}": count
        for split, count in (("train", 8), ("validation", 3), ("test", 4))
        for label in ("Bean", "Bitter_Gourd")
    }
    foods, tunes = (
        images_of({"x/dataset/kebab (shish kebab)": 5, "x/dataset/bánh mì": 5}, 2),
        images_of({"drum": 4, "harp": 4}, 4),
    )
    served = {
        "/pets/images.tar.gz": pets,
        "/pets/annotations.tar.gz": lists,
        FOODS: zip_of(foods | {"a.csv": b"1"}),
        "/vegetables/archive.zip": zip_of(images_of(vegetables)),
        TUNES: zip_of(tunes),
    }
    served |= {
        "/street_foods/archive.zip": served[FOODS],
        "/instruments/archive.zip": served[TUNES],
    }
    of_tests = replace(
        SOURCES["pets"],
        images=Archive("images.tar.gz", "https://x/images.tar.gz", md5(pets).hexdigest()),
        splits=Archive(
            "annotations.tar.gz", "https://x/annotations.tar.gz", md5(lists).hexdigest()
        ),
    )
    monkeypatch.setitem(SOURCES, "pets", of_tests)  # type: ignore[arg-type]  # the real archives have 800 MB
    with publishing(served) as there:
        monkeypatch.setenv("EYEVSAI_MIRROR", there.url)
        yield there


def through_proxy(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """kagglehub itself, whose API is asked through a proxy."""
    monkeypatch.delenv("EYEVSAI_MIRROR")
    for name, value in {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": publisher.url,
        "no_proxy": "",
    }.items():
        monkeypatch.setenv(name, value)


def test_pets_are_class_folders_named_after_their_files(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    publisher.cut_after = [3000]
    done = eyevsai("data", "download", "pets")
    assert "pets: 20 images in 2 classes at " in done.stdout
    assert "has 2 classes, but the publisher states 37" in done.stderr
    assert "Left out 2 files of other types than images" in done.stderr
    assert publisher.asked == [
        ("/pets/images.tar.gz", None),
        ("/pets/images.tar.gz", "bytes=3000-"),
    ]
    assert not list((workplace / "data" / ".downloads").rglob("*.part"))
    record = json.loads((workplace / "data" / "pets" / "dataset.json").read_text())
    assert record["classes"] == {"Abyssinian": 10, "american_bulldog": 10}
    assert record["archives"][0]["bytes"] == len(publisher.files["/pets/images.tar.gz"])
    stats = json.loads(eyevsai("data", "stats", "--dataset", "pets", "--json").stdout)
    assert stats["classes"] == record["classes"]

    again = eyevsai("data", "download", "pets").stdout
    assert "pets: already downloaded: 20 images in 2 classes" in again
    assert len(publisher.asked) == 2
    next((workplace / "data" / "pets" / "Abyssinian").iterdir()).unlink()
    assert (
        "it had 20 images, and has 19 now. Use --force"
        in eyevsai("data", "download", "pets").stderr
    )
    assert "pets: 20 images" in eyevsai("data", "download", "--force", "pets").stdout


def test_pets_by_their_official_split(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    said = eyevsai("data", "download", "--dataset", "pets", "--splits", "published").stdout
    # two images are in no list, as 41 of the real ones
    assert "18 images in 2 classes (12 train, 6 test)" in said
    assert len(list((workplace / "data" / "pets" / "test" / "Abyssinian").iterdir())) == 3


def test_vegetables_keep_their_splits_or_are_put_together(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    said = eyevsai("data", "download", "vegetables").stdout
    assert "30 images in 2 classes" in said
    root = workplace / "data" / "vegetables"
    assert {path.name for path in root.iterdir()} == {"train", "valid", "test", "dataset.json"}
    assert json.loads((root / "dataset.json").read_text())["splits"] == {
        "train": 16,
        "valid": 6,
        "test": 8,
    }
    done = json.loads(
        eyevsai("data", "download", "vegetables", "--splits", "none", "--force", "--json").stdout
    )
    assert done == [
        {
            "name": "vegetables",
            "folder": str(root),
            "images": 30,
            "splits": {},
            "is_new": True,
            "classes": {"Bean": 15, "Bitter_Gourd": 15},
        }
    ]
    assert {path.name for path in root.iterdir()} == {"Bean", "Bitter_Gourd", "dataset.json"}


def test_kaggle_is_asked_by_kagglehub(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    through_proxy(publisher, monkeypatch)
    done = eyevsai("data", "download", "street_foods")
    assert "Left out 1 file of other types than images" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert publisher.asked[0] == ("/api/v1/datasets.DatasetApiService/DownloadDataset", None)
    folders = {
        path.name for path in (workplace / "data" / "street_foods").iterdir() if path.is_dir()
    }
    assert folders == {"kebab_shish_kebab", "bánh_mì"}
    del publisher.files[TUNES]
    said = eyevsai("data", "download", "instruments", code=1).stderr
    assert "Kaggle requires credentials (HTTP 403)" in said
    assert "set KAGGLE_API_TOKEN" in said


def test_a_union_is_trained_on_without_a_copy(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    before = eyevsai("train", "--dataset", "combined", *TINY_NETWORK, code=2).stderr
    assert "eyevsai data download combined" in before
    done = eyevsai("data", "download", "combined").stdout
    assert "combined: 6 classes, the union of these datasets" in done
    folders = {path.name for path in (workplace / "data").iterdir() if path.is_dir()}
    assert folders == {".downloads", "pets", "street_foods", "instruments"}
    assert "combined-deep_v1" in eyevsai("train", "--dataset", "combined", *TINY_NETWORK).stdout
    assert "combined_all: 8 classes" in eyevsai("data", "download", "combined_all").stdout


def test_without_network_each_part_says_what_to_do(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EYEVSAI_MIRROR")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{find_port()}")
    said = eyevsai("data", "download", "combined_all", code=1).stderr
    for name, page, file in (
        ("pets", "https://x/images.tar.gz", "images.tar.gz"),
        (
            "vegetables",
            "https://www.kaggle.com/datasets/misrakahmed/vegetable-image-dataset",
            "archive.zip",
        ),
        (
            "street_foods",
            "https://www.kaggle.com/datasets/nikolasgegenava/popular-street-foods",
            "archive.zip",
        ),
        (
            "instruments",
            "https://www.kaggle.com/datasets/nikolasgegenava/music-instruments",
            "archive.zip",
        ),
    ):
        assert (
            f"Or download {page} with a browser, save the file as data/.downloads/{name}/{file}"
            in said
        )
    by_hand = workplace / "data" / ".downloads" / "instruments" / "archive.zip"
    by_hand.write_bytes(publisher.files[TUNES])
    assert "8 images" in eyevsai("data", "download", "instruments").stdout
    assert by_hand.exists()  # what a person downloaded is not ours to delete
    (workplace / "mine.tar.gz").write_bytes(publisher.files["/pets/images.tar.gz"])
    assert "20 images" in eyevsai("data", "download", "pets", "--archive", "mine.tar.gz").stdout


def test_mistakes_are_told(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        "--dataset is required. Use one of pets, vegetables"
        in eyevsai("data", "download", code=2).stderr
    )
    assert "Did you mean 'vegetables'" in eyevsai("data", "download", "vegetable", code=2).stderr
    assert (
        "Use one of published, none"
        in eyevsai("data", "download", "pets", "--splits", "some", code=2).stderr
    )
    get = ("data", "download", "pets", "--archive")
    assert "There is no file nowhere.zip" in eyevsai(*get, "nowhere.zip", code=2).stderr
    (workplace / "other.zip").write_bytes(b"PK")
    assert "that of the published images.tar.gz" in eyevsai(*get, "other.zip", code=2).stderr
    one = eyevsai("data", "download", "combined", "--archive", "other.zip", code=2).stderr
    assert "with its own --archive: pets, street_foods, instruments" in one
    (workplace / "data" / "vegetables" / "mine").mkdir(parents=True)
    assert (
        "vegetables: already downloaded: 0 images"
        in eyevsai("data", "download", "vegetables").stdout
    )
    forced = eyevsai("data", "download", "vegetables", "--force", code=2).stderr
    assert "was not created by this command" in forced
    assert (
        "cannot be read or written" in eyevsai(*get[:3], "--data-dir", "other.zip", code=1).stderr
    )
    gone = eyevsai(
        "data", "download", "pets", EYEVSAI_MIRROR=f"{publisher.url}/nothing", code=1
    ).stderr
    assert "the server returned 404" in gone
    login = eyevsai(
        "data", "download", "pets", EYEVSAI_MIRROR="http://me:password@127.0.0.1:9", code=1
    ).stderr
    assert "password" not in login
    with monkeypatch.context() as patch:
        patch.delenv("EYEVSAI_MIRROR")
        patch.setitem(sys.modules, "kagglehub", None)
        without = eyevsai("data", "download", "instruments", code=2).stderr
    assert "eyevsai install data --run" in without


def test_get_is_a_hidden_alias_of_download(eyevsai: Eyevsai, workplace: Path) -> None:
    download, alias = (
        eyevsai("data", command, "vegetable", code=2).stderr for command in ("download", "get")
    )
    assert "Did you mean 'vegetables'" in alias
    assert alias == download
    listed = re.findall(r"^  ([a-z]+)  ", eyevsai("data", "--help").stdout, re.MULTILINE)
    assert "download" in listed
    assert "get" not in listed


def check_data_run() -> None:
    """Fail unless the run of the entry point `data` says what was got."""
    (run,) = MlflowClient().search_runs(experiments())
    assert (run.info.status, run.data.tags["eyevsai.job"], run.data.tags["dataset"]) == (
        "FINISHED",
        "data",
        "vegetables",
    )
    assert run.data.params == {"dataset": "vegetables", "splits": "none"}


def test_entry_point_gets_data(entry_point: Eyevsai, publisher: Publisher) -> None:
    said = entry_point("data", "-P", "dataset=vegetables", "-P", "splits=none").stdout
    assert "vegetables: 30 images in 2 classes" in said
    check_data_run()


@pytest.mark.slow
def test_mlflow_run_gets_data(mlflow_run: MlflowRun, publisher: Publisher) -> None:
    said = mlflow_run("data", "-P", "dataset=vegetables", "-P", "splits=none").stdout
    assert "vegetables: 30 images in 2 classes" in said
    check_data_run()

"""Layouts of datasets are recognised as people mean them; what is not read is named."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from eyevsai.core.errors import UserError
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.image_folder import FolderIndex, index_dataset
from eyevsai.data.unused_files import UnusedFile, describe_unused
from tests.conftest import draw_image


def fill(folder: Path, count: int = 2, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.fromarray(draw_image(number, number)).save(folder / f"{number}.png")
    return folder


def read(folder: Path, labels: str | None = None, groups: str | None = None) -> FolderIndex:
    return index_dataset(DatasetFolder("set", {"set": folder}, labels, groups))


def shares(index: FolderIndex) -> dict[tuple[str | None, str], int]:
    return dict(Counter((file.split, file.label) for file in index.files))


@pytest.mark.parametrize(
    "names",
    [
        {"Training": "train", "Testing": "test"},
        {"TRAIN": "train", "Val": "valid", "holdout": "test"},
        {"train": "train", "dev": "valid"},
        {"train": "train", "eval": "valid", "test": "test"},
        {"train": "train", "validation": "valid"},
        {"train": "train"},
        {"training_set": "train", "test_set": "test"},
        {"seg_train": "train", "seg_test": "test"},
        {"1_train": "train", "2_val": "valid", "3_test": "test"},
        {"trainval": "train", "test": "test"},
        {"train_images": "train", "val-data": "valid"},
        {"train2017": "train", "val2017": "valid"},
    ],
)
@pytest.mark.parametrize("wrapper", ["", "data", "data/inner"])
def test_folders_of_splits_are_recognised(
    tmp_path: Path, names: dict[str, str], wrapper: str
) -> None:
    for name in names:
        for label in ("cat", "dog"):
            fill(tmp_path / wrapper / name / label)
    index = read(tmp_path)
    assert shares(index) == {
        (split, label): 2 for split in names.values() for label in ("cat", "dog")
    }
    assert index.classes == ["cat", "dog"]


def test_a_folder_around_the_classes_of_a_split_is_opened(tmp_path: Path) -> None:
    for split in ("training_set", "test_set"):
        for label in ("cats", "dogs"):
            fill(tmp_path / split / split / label)
    assert shares(read(tmp_path)) == {
        ("train", "cats"): 2,
        ("train", "dogs"): 2,
        ("test", "cats"): 2,
        ("test", "dogs"): 2,
    }


def test_folders_that_may_be_splits_are_noted(tmp_path: Path) -> None:
    for fold in ("fold0", "fold1"):
        for label in ("cat", "dog"):
            fill(tmp_path / fold / label)
    (note,) = read(tmp_path).notes
    assert note.startswith(
        "fold0/, fold1/ contain the same folders (cat, dog), and each is read as one class"
    )


def test_names_that_are_not_utf_8_are_told(tmp_path: Path) -> None:
    fill(tmp_path / "cat")
    fill(tmp_path / "dog")
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / os.fsdecode(b"\xe9.png"))
    assert "1 file with a name that is not UTF-8 (\\xe9.png)" in describe_unused(
        read(tmp_path).unused
    )
    fill(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(UserError, match="is not UTF-8"):
        read(tmp_path)


def test_names_in_a_table_are_relative_to_it_too(tmp_path: Path) -> None:
    fill(tmp_path / "train", 4)
    fill(tmp_path / "test", 4)
    rows = [f"{number}.png,{('cat', 'dog')[number % 2]}\n" for number in range(4)]
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n" + "".join(rows))
    index = read(tmp_path, "test/metadata.csv")
    assert {(file.split, file.path.parent.name) for file in index.files} == {("test", "test")}


@pytest.mark.parametrize("other", ["unlabeled", "extra", "sample_submission"])
def test_a_folder_beside_train_that_is_no_split_is_named(tmp_path: Path, other: str) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / "train" / label)
    fill(tmp_path / other, 5)
    index = read(tmp_path)
    assert shares(index) == {("train", "cat"): 2, ("train", "dog"): 2}
    assert f"5 files in {other}/, which is not a split" in describe_unused(index.unused)


def test_a_class_that_is_called_like_a_split_is_a_class(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        fill(tmp_path / label)
    assert read(tmp_path).classes == ["bus", "car", "train"]


@pytest.mark.parametrize(
    ("folders", "text"),
    [
        (
            ["train/cat", "train/dog", "val/cat", "valid/dog"],
            "has val/ and valid/, which are both the valid split",
        ),
        (
            ["train/cat", "train/dog", "test/cat", "Test/dog"],
            "has Test/ and test/, which are both the test split",
        ),
        (["train", "test"], "no class folders"),
        (["train"], "no class folders"),
        (["train", "val", "test"], "no class folders"),
        (["images", "annotations"], "images and their annotations"),
        (["images", "masks"], "images and their annotations"),
        (["JPEGImages", "SegmentationClass/x", "annotations"], "images and their annotations"),
        (["images/train", "images/val", "labels/train"], "no class folders"),
        (
            ["train/images", "train/labels", "valid/images", "valid/labels"],
            "images and their annotations",
        ),
        (
            ["train/cat", "train/dog", "more/cat"],
            "is not a split, but has class folders of the train split: cat/",
        ),
        (["Cat", "cat", "dog"], "has the classes Cat and cat, which differ only in case"),
        (["train/Cat", "test/cat", "train/dog"], "differ only in case"),
        (
            ["cat/train", "cat/test", "dog/train", "dog/test"],
            "the splits are inside the classes",
        ),
        ([""], "no class folders"),
        (["train_images", "test_images"], "no class folders"),
        (["images"], "no class folders"),
        (["train/images", "test/images"], "no class folders"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, folders: list[str], text: str
) -> None:
    for number, name in enumerate(folders):
        fill(tmp_path / name, start=10 * number)
    with pytest.raises(UserError, match=re.escape(text)):
        read(tmp_path)


def test_a_table_beside_flat_splits_is_named_and_read(tmp_path: Path) -> None:
    fill(tmp_path / "train", 4)
    fill(tmp_path / "test", 3)
    rows = [f"{number},{('cat', 'dog')[number % 2]}\n" for number in range(4)]
    (tmp_path / "train.csv").write_text("id,label\n" + "".join(rows))
    with pytest.raises(UserError, match=r"Possible label table: --labels train.csv"):
        read(tmp_path)
    index = read(tmp_path, "train.csv")
    assert shares(index) == {("train", "cat"): 2, ("train", "dog"): 2}
    assert {file.path.parent.name for file in index.files} == {"train"}
    assert "3 files without a row in train.csv" in describe_unused(index.unused)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,label,split", "images/{n}.png,{label},{split}"),
        ("filename;class;set", "{n}.png;{label};{split}"),
        ("image_id\tbreed\tsubset", "{n}\t{label}\t{split}"),
        ("Image, Category ,Split", "images\\{n}.png, {label} ,{split}"),
        ("\ufeffid,label,split", "{n},{label},{split}"),
    ],
)
def test_label_tables_of_common_forms(tmp_path: Path, header: str, row: str) -> None:
    fill(tmp_path / "images", 6)
    splits = ("train", "Train", "val", "validation", "test", "TEST")
    rows = [row.format(n=n, label=("cat", "dog")[n % 2], split=splits[n]) for n in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    assert shares(read(tmp_path, str(tmp_path / "labels.csv"))) == {
        ("train", "cat"): 1,
        ("train", "dog"): 1,
        ("valid", "cat"): 1,
        ("valid", "dog"): 1,
        ("test", "cat"): 1,
        ("test", "dog"): 1,
    }


def test_paths_in_a_table_may_be_absolute_or_begin_with_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    fill(folder / "images", 4)
    rows = [
        f"{folder / 'images' / '0.png'},a",
        "birds/images/1.png,a",
        "./images/2.png,b",
        '"images/3.png","b"',
    ]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(["path,label", *rows, ""]).encode())
    assert shares(read(folder, str(tmp_path / "labels.csv"))) == {(None, "a"): 2, (None, "b"): 2}


def test_names_in_a_table_are_compared_in_nfc(tmp_path: Path) -> None:
    for number, form in enumerate(("NFC", "NFD")):
        name = unicodedata.normalize(form, f"café{number}.png")
        Image.fromarray(draw_image(number, number)).save(tmp_path / name)
    rows = [
        f"{unicodedata.normalize(form, f'café{number}')},a{number}"
        for number, form in enumerate(("NFD", "NFC"))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *rows]), encoding="utf-8")
    assert shares(read(tmp_path, "labels.csv")) == {(None, "a0"): 1, (None, "a1"): 1}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("id,label\n../secret,cat\n", "'../secret' is outside the dataset's folder"),
        ("id,label\n/etc/passwd,cat\n", "is outside the dataset's folder"),
        ("id,label\n0,cat\n0,dog\n", "has two rows, 'cat' and 'dog'"),
        (
            "id,label,split\n0,cat,train\n0,cat,test\n",
            "has two rows, 'cat' (split train) and 'cat' (split test)",
        ),
        ("id,label\n99,cat\n", "no row matches an image"),
        ("id,split\n0,train\n", "has no column for labels"),
        ("what,label\n0,cat\n", "has no column for paths"),
        ("id,label,split\n0,cat,nowhere\n", "'nowhere' is not a split"),
        ("", "has no rows"),
        ("id,label\n0,cat\n\n1,dog\n0,dog\n", "labels.csv, row 5: images/0.png has two rows"),
        ("id,label\n0,cat\n1,Cat\n", "differ only in case"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, content: str, text: str) -> None:
    fill(tmp_path / "images", 3)
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=re.escape(text)):
        read(tmp_path, "labels.csv")


def test_rows_without_a_file_or_a_label_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "images", 3)
    (tmp_path / "labels.csv").write_text("id,label\n0,cat\n1,dog\n2,\n7,cat\n")
    assert read(tmp_path, "labels.csv").notes == [
        "1 row of labels.csv without a file (7)",
        "1 row of labels.csv without a label (2)",
    ]


def test_groups_come_from_names_or_from_a_column(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for label in ("cat", "dog"):
        for video in ("v1", "v2"):
            fill(folder / label / video)
    found = read(folder, groups=r"(v\d)/")
    assert Counter(file.group for file in found.files) == {"v1": 4, "v2": 4}
    with pytest.raises(UserError, match="matches no file"):
        read(folder, groups="nothing")
    with pytest.raises(UserError, match="is not a valid regular expression"):
        read(folder, groups="(")
    fill(tmp_path / "flat", 4)
    (tmp_path / "flat" / "labels.csv").write_text(
        "id,label,patient\n0,cat,a\n1,cat,a\n2,dog,b\n3,dog,\n"
    )
    found = read(tmp_path / "flat", "labels.csv", "patient")
    assert [file.group for file in found.files] == ["a", "a", "b", None]


def test_images_are_known_by_their_content_and_system_files_ignored(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / label)
    image = Image.fromarray(draw_image(0, 0))
    for suffix, kind in {
        "jfif": "JPEG",
        "jpe": "JPEG",
        "avif": "AVIF",
        "jp2": "JPEG2000",
        "ppm": "PPM",
        "": "PNG",
        "dat": "WEBP",
    }.items():
        image.save(tmp_path / "dog" / f"image.{suffix}".rstrip("."), kind)
    (tmp_path / "dog" / "movie.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini"):
        (tmp_path / "dog" / name).write_bytes((tmp_path / "dog" / "0.png").read_bytes())
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "page_files"):
        fill(tmp_path / name)
        fill(tmp_path / "dog" / name)
    fill(tmp_path, 3)
    index = read(tmp_path)
    assert shares(index) == {(None, "cat"): 2, (None, "dog"): 9}
    told = describe_unused(index.unused)
    assert "3 files in the root" in told
    assert "1 file that does not decode (movie.heic)" in told
    assert "2 files that are not images (notes.txt, page.eps)" in told
    assert "4 files in page_files/, saved by a browser with a web page" in told


def test_links_are_files_like_others(tmp_path: Path) -> None:
    first = fill(tmp_path / "set" / "train" / "cat")
    fill(tmp_path / "set" / "train" / "dog", start=10)
    for label in ("cat", "dog"):
        (tmp_path / "set" / "val" / label).mkdir(parents=True)
    (tmp_path / "set" / "val" / "cat" / "0.png").hardlink_to(first / "0.png")
    (tmp_path / "set" / "val" / "dog" / "1.png").symlink_to(first / "1.png")
    (tmp_path / "set" / "train" / "dog" / "again").symlink_to(first)
    (tmp_path / "set" / "train" / "dog" / "loop").symlink_to(tmp_path / "set")
    assert shares(read(tmp_path / "set")) == {
        ("train", "cat"): 2,
        ("train", "dog"): 4,
        ("valid", "cat"): 1,
        ("valid", "dog"): 1,
    }


def test_files_of_unknown_kinds_in_the_root_are_named(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / label)
    for name in ("a.heic", "b.heic", "LICENSE", "README.md"):
        (tmp_path / name).write_bytes(b"no image")
    assert (
        "3 files in the root, outside the class folders (LICENSE, a.heic, b.heic)"
        in describe_unused(read(tmp_path).unused)
    )


def test_files_that_a_table_cannot_use_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "images", 3)
    (tmp_path / "images" / "a.heic").write_bytes(b"no image")
    (tmp_path / "labels.csv").write_text("id,label\n0,cat\n1,dog\na.heic,cat\n")
    index = read(tmp_path, "labels.csv")
    told = describe_unused(index.unused)
    assert (
        told == "1 file that does not decode (a.heic); 1 file without a row in labels.csv (2.png)"
    )
    assert index.notes == ["1 row of labels.csv without a file (a.heic)"]


def test_soft_linked_class_folders_are_read(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / "elsewhere" / label)
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / label).symlink_to(tmp_path / "elsewhere" / label)
    assert shares(read(tmp_path / "set")) == {(None, "cat"): 2, (None, "dog"): 2}


def test_spellings_of_one_name_are_one_class(tmp_path: Path) -> None:
    fill(tmp_path / "train" / unicodedata.normalize("NFC", "café"))
    fill(tmp_path / "train" / unicodedata.normalize("NFD", "café"), start=5)
    fill(tmp_path / "test" / unicodedata.normalize("NFD", "café"), start=9)
    fill(tmp_path / "train" / "tea ")
    fill(tmp_path / "test" / "tea", start=9)
    index = read(tmp_path)
    assert shares(index) == {
        ("train", "café"): 4,
        ("test", "café"): 2,
        ("train", "tea"): 2,
        ("test", "tea"): 2,
    }
    assert any("are one class, 'café'" in note for note in index.notes)
    assert os.listdir(tmp_path / "train")


def test_one_unused_file_keeps_the_name_of_its_folder() -> None:
    unused = [UnusedFile(Path("a.txt"), "in things that do not fit/, which is not a split")]
    assert describe_unused(unused) == (
        "1 file in things that do not fit/, which is not a split (a.txt)"
    )


def test_a_class_folder_names_its_dataset(tmp_path: Path) -> None:
    for name in ("pets/cat", "pets/dog", "split/train/cat", "split/train/dog", "split/test/cat"):
        fill(tmp_path / name, 3)
    for folder, dataset in (("pets/cat", "pets"), ("split/train/cat", "split")):
        with pytest.raises(UserError, match="has 3 images in it, but no class folders") as raised:
            read(tmp_path / folder)
        assert f"If it is one class, use --data {tmp_path / dataset}. " in str(raised.value)


def test_only_a_label_table_is_suggested(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    fill(folder, 3)
    (tmp_path / "all_models_report.csv").write_text("model,accuracy\na,0.5\n")
    with pytest.raises(UserError) as raised:
        read(folder)
    assert "Possible label table" not in str(raised.value)
    (tmp_path / "labels.csv").write_text("\ufefffile;label\n0.png;cat\n")
    with pytest.raises(UserError, match=re.escape(f"--labels {tmp_path / 'labels.csv'}")):
        read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="There are no images in") as raised:
        read(tmp_path / "empty")
    assert "Possible label table" not in str(raised.value)

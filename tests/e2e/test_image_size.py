"""The default image size is not larger than the images; `--image-size` wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.conftest import TINY, Eyevsai, experiments, write_images

QUICK = tuple(each for each in TINY if each not in ("--image-size", "32"))


@pytest.fixture
def small_images(workplace: Path) -> Path:
    return write_images(workplace / "small", {"a": 12, "b": 12})  # short sides of 32 and 40 px


@pytest.mark.parametrize(
    ("options", "size"), [((), "48"), (("--image-size", "64"), "64"), (("--preset", "gpu"), "48")]
)
def test_default_image_size_is_at_most_that_of_the_images(
    eyevsai: Eyevsai, small_images: Path, options: tuple[str, ...], size: str
) -> None:
    done = eyevsai("train", str(small_images), *QUICK, *options)
    (run,) = MlflowClient().search_runs(experiments())
    assert run.data.params["image_size"] == size
    note = f"Images of {size} px instead of"
    assert (note in done.stderr) == ("--image-size" not in options)


def test_study_and_training_have_the_same_image_size_and_crops(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    tiny_images = write_images(workplace / "tiny", {"a": 12, "b": 12})
    for path in tiny_images.rglob("*.png"):
        Image.open(path).resize((30, 24)).save(path)
    settings = [each for each in QUICK if each not in ("--tuned", "never")]
    eyevsai("tune", str(tiny_images), *settings, "--n-trials", "1", "--sampler", "random")
    eyevsai("train", str(tiny_images), *QUICK)
    study = next(
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags["eyevsai.job"] == "tune"
    )
    eyevsai("train", str(tiny_images), *settings, "--tuned", study.info.run_id)
    runs = MlflowClient().search_runs(experiments())
    assert {run.data.params["image_size"] for run in runs} == {"32"}
    crops = [
        (run.data.params["crop_scale"], run.data.params["crop_margin"])
        for run in runs
        if run.data.tags["eyevsai.job"] in ("train", "trial")
    ]
    # trial 0 has the defaults for small images, and the last training those of the study
    assert crops == 3 * [("1.0", "1.0")]

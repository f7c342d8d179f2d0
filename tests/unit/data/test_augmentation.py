from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from eyevsai.core.errors import UserError
from eyevsai.data.augmentation import augment
from eyevsai.data.preprocessing import Preprocessing, crop_center
from eyevsai.data.settings import AugmentationSettings
from eyevsai.models.deep_v1.settings import DeepV1Settings

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(32)
OFF = AugmentationSettings(
    crop_scale=1.0, crop_ratio=1.0, flip=False, rotation=0, brightness=0, contrast=0, saturation=0
)


def test_a_shift_that_no_image_gets_is_refused() -> None:
    AugmentationSettings(translate=0.1, crop_scale=1.0)
    AugmentationSettings(translate=0.1, crop_share=0.9)
    DeepV1Settings(crop_share=1.0)  # the default shift is not asked for
    with pytest.raises(UserError, match=r"--translate 0\.1 .* Add --crop-share 0\.5"):
        AugmentationSettings(translate=0.1)


def images(count: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sources = (
        torch.randint(
            0, 256, (1, 40 + n % 3 * 7, 40 + n % 2 * 9, 3), dtype=torch.uint8, generator=generator
        )
        for n in range(count)
    )
    return [PREPROCESSING.resize(source)[0] for source in sources]


def run(settings: AugmentationSettings, sources: list[torch.Tensor], seed: int = 0) -> torch.Tensor:
    return augment(sources, settings, PREPROCESSING, torch.Generator().manual_seed(seed), CPU)


def test_all_off_is_what_evaluation_sees() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = [
        torch.randint(0, 256, (high, wide, 3), dtype=torch.uint8, generator=generator)
        for high, wide in ((38, 38), (37, 37), (37, 44), (60, 37))
    ]
    expected = PREPROCESSING.normalize(
        torch.cat([crop_center(source[None], 32, 32) for source in sources])
    )
    torch.testing.assert_close(run(OFF, sources), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_scale": 0.3},
        {"translate": 0.2},
        {"flip": True},
        {"rotation": 30.0},
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"saturation": 0.5},
        {"noise": 0.2},
        {"crop_scale": 0.5, "crop_ratio": 2.0},
        {"random_erasing": 0.7},
        {"auto_augment": "trivial"},
        {"auto_augment": "rand"},
    ],
)
def test_each_change_alone_differs_from_image_to_image(change: dict[str, float]) -> None:
    one = images(1)
    batch = run(replace(OFF, **change), one * 16)
    plain = run(OFF, one)
    distinct = {tuple(image.flatten().tolist()) for image in batch}
    assert len(distinct) >= 2
    assert not torch.allclose(batch.mean(0), plain[0])


def test_erasing_blanks_one_rectangle_in_its_share_of_the_images() -> None:
    bright = torch.full((37, 37, 3), 255, dtype=torch.uint8)
    blank = (run(replace(OFF, random_erasing=0.5), [bright] * 400) == 0).all(dim=1)  # N,S,S
    hit = blank.flatten(1).any(dim=1)
    assert 0.4 < hit.float().mean() < 0.6
    for mask in blank[hit]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns[None])
        assert 0.01 < mask.float().mean() < 0.40


def test_noise_has_deviations_up_to_its_limit_on_the_scale_of_pixels() -> None:
    settings, sources = replace(OFF, noise=0.2), images(400)
    noise = run(settings, sources) - run(OFF, sources)
    pixels = noise * torch.tensor(PREPROCESSING.std)[:, None, None]  # 1 is full scale
    deviations = pixels.flatten(1).std(1)
    assert deviations.max() == pytest.approx(0.2, rel=0.05)
    assert deviations.min() < 0.01
    assert deviations.mean() == pytest.approx(0.1, abs=0.01)  # those of a uniform distribution
    assert pixels.std((0, 2, 3)) == pytest.approx([0.2 / 3**0.5] * 3, rel=0.1)
    assert pixels.mean().abs() < 0.002
    correlations = torch.corrcoef(pixels[deviations > 0.05].flatten(1)).triu(1).abs()
    assert (correlations > 0.2).double().mean() < 0.01  # images have different noise


def test_noise_of_an_image_does_not_depend_on_the_rows_of_a_process() -> None:
    settings, sources = replace(OFF, noise=0.2, random_erasing=0.5), images(8)
    whole = run(settings, sources)
    part = augment(
        sources, settings, PREPROCESSING, torch.Generator().manual_seed(0), CPU, rows=slice(2, 5)
    )
    torch.testing.assert_close(part, whole[2:5])


def test_a_policy_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    run(replace(OFF, auto_augment="rand"), images(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_generator_gives_the_same_batch() -> None:
    settings = AugmentationSettings()
    assert torch.equal(run(settings, images(), 5), run(settings, images(), 5))
    assert not torch.equal(run(settings, images(), 5), run(settings, images(), 6))


def test_shifted_images_repeat_their_border() -> None:
    source = torch.arange(32, dtype=torch.uint8).repeat(32, 1)[..., None].repeat(1, 1, 3)
    batch = run(replace(OFF, translate=0.125), [source] * 400)
    values = 255 * (batch[:, 0] * PREPROCESSING.std[0] + PREPROCESSING.mean[0])  # N,S,S
    shifts = (values[:, 0, 16] - 16).round()
    assert set(shifts.tolist()) == set(range(-4, 5))
    expected = (torch.arange(32) + shifts[:, None]).clamp(0, 31)
    torch.testing.assert_close(values, expected[:, None].expand_as(values), rtol=0, atol=1e-3)


@pytest.mark.parametrize("policy", ["none", "trivial"])
def test_a_tensor_of_images_gives_the_same_batch_as_a_list(policy: str) -> None:
    settings = AugmentationSettings(auto_augment=policy)
    (image,), rows = images(1), slice(2, 5)
    several = [image, image.flip(0), image.flip(1)] * 3
    expected, batch = (
        augment(each, settings, PREPROCESSING, torch.Generator().manual_seed(1), CPU, rows=rows)
        for each in (several, torch.stack(several))
    )
    assert torch.equal(batch, expected)


def test_an_image_never_shows_what_lies_beside_it_in_the_frame() -> None:
    small = torch.full((37, 37, 3), 100, dtype=torch.uint8)
    large = torch.full((74, 74, 3), 255, dtype=torch.uint8)
    batch = run(replace(OFF, rotation=180.0, crop_scale=0.5), [small, large])
    expected = run(OFF, [small])[0]
    torch.testing.assert_close(batch[0], expected, rtol=0, atol=1e-4)


def test_mirroring_is_torchvisions() -> None:
    (source,) = images(1)
    mirrored = next(
        batch
        for seed in range(20)
        if not torch.equal(
            batch := run(replace(OFF, flip=True), [source], seed), run(OFF, [source])
        )
    )
    torch.testing.assert_close(
        mirrored, reference.horizontal_flip(run(OFF, [source])), rtol=0, atol=1e-4
    )


def test_colour_jitter_is_torchvisions_where_nothing_is_clipped() -> None:
    source = torch.randint(
        100, 140, (37, 37, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    for name, adjust in (
        ("brightness", reference.adjust_brightness),
        ("contrast", reference.adjust_contrast),
        ("saturation", reference.adjust_saturation),
    ):
        changed = run(replace(OFF, **{name: 0.4}), [source])[0]
        plain = run(OFF, [source])[0]
        mean = torch.tensor(PREPROCESSING.mean).view(3, 1, 1)
        std = torch.tensor(PREPROCESSING.std).view(3, 1, 1)
        factors = torch.linspace(0.6, 1.4, 8001)
        pixels = plain * std + mean
        # the factor that was drawn is not told, so the nearest of those that could be is taken
        errors = [
            (adjust(pixels, float(f)) - (changed * std + mean)).abs().max().item()
            for f in factors[::40]
        ]
        assert min(errors) < 0.02, name


def test_what_lay_in_memory_before_never_shows() -> None:
    """Images of different sizes leave room in the batch's frame, which must not be whatever was
    there.
    """
    generator = torch.Generator().manual_seed(0)
    sources = [
        torch.randint(0, 256, (37, 37 + 6 * n, 3), dtype=torch.uint8, generator=generator)
        for n in range(8)
    ]
    settings = replace(OFF, rotation=90.0, crop_scale=0.5)
    batches = []
    for level in (0, 255, 77):
        poison = [torch.full((8, 37, 79, 3), level, dtype=torch.uint8) for _ in range(64)]
        del poison
        batches.append(run(settings, sources))
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])

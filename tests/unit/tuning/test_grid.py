"""A grid has each point once, whatever its size."""

from __future__ import annotations

import time
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from eyevsai.core.settings import Settings
from eyevsai.models.factory import FAMILIES, get_family
from eyevsai.models.shallow.settings import SvmSettings
from eyevsai.tuning.grid import Grid
from eyevsai.tuning.search_space import build_search_space

ALL = [(family, name) for family in FAMILIES for name in get_family(family).variations]


def make_grid(
    tmp_path: Path, text: str, declared: type[Settings] = SvmSettings, **explicit: Any
) -> Grid:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return Grid(build_search_space(declared, explicit, str(path)), declared())


def test_points_have_conditional_settings_only_where_they_matter(tmp_path: Path) -> None:
    grid = make_grid(
        tmp_path, "C = [1.0, 10.0]\nkernel = ['rbf', 'poly']\ncomponents = [50, 100, 150]\n"
    )
    # rbf has no degree, poly has 3; no reduction has no components, pca and svd have 3
    assert grid.size == 2 * (1 + 3) * (1 + 3 + 3)
    points = [grid.point(index) for index in range(grid.size)]
    assert len({tuple(sorted(point.items())) for point in points}) == grid.size
    for point in points:
        assert ("degree" in point) == (point["kernel"] == "poly")
        assert ("components" in point) == (point["reduction"] != "none")
    assert [grid.index(point) for point in points] == list(range(grid.size))


def test_conditions_are_those_of_fixed_settings_and_defaults(tmp_path: Path) -> None:
    text = "C = [1.0, 10.0]\nreduction = 'none'\n"
    assert make_grid(tmp_path, text, kernel="poly").size == 2 * 3  # degrees
    assert make_grid(tmp_path, text, kernel="rbf").size == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 36, 100, 1025])
def test_the_order_has_each_point_once(tmp_path: Path, size: int) -> None:
    grid = make_grid(
        tmp_path,
        f"C = {[float(number + 1) for number in range(size)]}\nkernel='rbf'\nreduction='none'\n",
    )
    order = [grid.shuffled_index(position) for position in range(size)]
    assert sorted(order) == list(range(size))
    assert size < 7 or order != sorted(order)


def test_repeated_values_are_one_point(tmp_path: Path) -> None:
    grid = make_grid(
        tmp_path,
        "C = [1, 1.0, 2]\nkernel='rbf'\nreduction='pca'\ncomponents = {low = 5, high = 5}\n",
    )
    assert grid.size == 2


def test_a_point_is_found_despite_the_rounding_of_a_database(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, "C = {low = 0.1, high = 0.3}\nkernel='rbf'\nreduction='none'\n")
    for index in range(grid.size):
        point = grid.point(index)
        assert 0.1 <= point["C"] <= 0.3
        assert grid.index(point | {"C": point["C"] * (1 + 1e-15)}) == index
    assert grid.index({"C": 0.2222}) is None
    assert grid.index({}) is None


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_default_grids_are_not_listed(family: str, variation: str) -> None:
    declared = get_family(family).variations[variation].settings
    space = build_search_space(declared, {}, None)
    tracemalloc.start()
    began = time.process_time()
    grid = Grid(space, declared())
    points = [
        grid.point(grid.shuffled_index(position)) for position in islice(range(grid.size), 100)
    ]
    elapsed_s, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len({repr(point) for point in points}) == min(grid.size, 100)
    assert peak < 2e6  # bytes
    assert elapsed_s < 1.0

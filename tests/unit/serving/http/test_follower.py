from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eyevsai.registry.rollout_tag import TAG, RolloutTag
from eyevsai.serving.http import registry_source
from eyevsai.serving.http.answers import CANDIDATE, PRODUCTION
from eyevsai.serving.http.follower import Follower
from eyevsai.serving.http.image_reader import ImageReader
from eyevsai.serving.http.metrics import Metrics
from eyevsai.serving.http.registry_source import LoadOptions, load_folder
from eyevsai.serving.http.rollout_router import RolloutRouter
from eyevsai.serving.http.routing import RegistryState
from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.http.versions import VersionTable
from tests.unit.serving.http.conftest import make_image, make_version


def test_a_rollout_ends_although_the_alias_of_production_was_deleted() -> None:
    tag = RolloutTag("run", 5, "split", 5_000, "ab", 8, 7, "run:1", 2_000.0)
    states = [
        RegistryState({PRODUCTION: 7}, {TAG: tag.to_json()}),
        RegistryState({}, {}),  # the controller ends a rollout whose alias was removed
    ]
    table = VersionTable()
    metrics = Metrics("stripes", table)
    router = RolloutRouter(table, b"secret of servers", None, "server-a", metrics)
    source: Any = SimpleNamespace(name="stripes", read_state=lambda: states.pop(0))
    follower = Follower(
        source,
        table,
        router,
        None,
        metrics,
        alias=PRODUCTION,
        has_class_consent=False,
        poll_s=5,
    )
    table.assign({PRODUCTION: make_version(7), CANDIDATE: make_version(8)})
    follower._poll()
    keys = [f"user-{number}" for number in range(100)]
    assert {router.route(key, "id").arm for key in keys} == {PRODUCTION, CANDIDATE}
    follower._poll()
    assert {router.route(key, "id").arm for key in keys} == {PRODUCTION}
    assert table.production is not None


def test_a_probe_does_not_depend_on_the_images_of_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version would be reported as broken while the memory for images is full."""
    content = base64.b64encode(make_image()).decode()
    example = {"dataframe_split": {"columns": ["image"], "data": [[content]]}}
    (tmp_path / "serving_input_example.json").write_text(json.dumps(example), encoding="utf-8")
    classifier = make_version()._classifier
    monkeypatch.setattr(registry_source, "check_model_dir", lambda folder: None)
    monkeypatch.setattr(registry_source, "_open", lambda *_: classifier)
    reader = ImageReader(LimitSettings(max_megapixels_in_flight=1))
    assert reader._budget is not None
    with reader._budget.reserve(2e6):
        version = load_folder("stripes", 3, tmp_path, None, LoadOptions(reader.read_one))
    assert version.read == reader.read_one
    assert version.predict(make_image()).width == 40

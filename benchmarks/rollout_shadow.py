"""Latency of production while a candidate gets a copy of each image."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psutil

from benchmarks.http_load import Load, run_load
from benchmarks.serving import IMAGE, PREDICT, SECONDS, Store, find_capacity, serving

ROUNDS = 5  # each without and with shadow, alternately
MAX_GROWTH = 0.10  # of the 99th percentile
MODEL = "10 ms"
POLL_S = 0.2


def measure_shadow(folder: Path) -> None:
    """Print the 99th percentile at half of the capacity without and with shadow."""
    store = Store(folder)
    name, image = store.add(MODEL), store.image(MODEL)
    _add_candidate(store, name)
    with serving(store, name, "--poll-s", str(POLL_S)) as (port, process, _):
        capacity = find_capacity(port, image)
        load = Load(port, PREDICT, str(image), IMAGE, SECONDS, 512, capacity / 2)
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * ROUNDS):
            is_on = bool(number % 2)
            _set_shadow(store, name, number + 1, is_on=is_on)
            _wait_for(process)
            times[is_on].append(run_load(load).percentile(0.99))
    without, with_shadow = (statistics.median(times[is_on]) for is_on in (False, True))
    growth = with_shadow / without - 1
    mark = "" if growth <= MAX_GROWTH else ", EXCEEDED"
    print(
        f"shadow at half of {capacity:.0f}/s: p99 {without:.1f} ms without, {with_shadow:.1f} ms "
        f"with it: {growth:+.0%} (limit +{MAX_GROWTH:.0%}{mark})"
    )


def _add_candidate(store: Store, name: str) -> None:
    """Register the model of version 1 a second time."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store.env["MLFLOW_TRACKING_URI"])
    if len(client.search_model_versions(f"name = '{name}'")) > 1:
        return
    first = client.get_model_version(name, "1")
    second = client.create_model_version(
        name,
        client.get_model_version_download_uri(name, "1"),
        first.run_id,
        tags=dict(first.tags),
        model_id=str(first.source).removeprefix("models:/"),
    )
    assert int(second.version) == 2


def _set_shadow(store: Store, name: str, seq: int, *, is_on: bool) -> None:
    from mlflow import MlflowClient

    from eyevsai.registry.rollout_tag import TAG, RolloutTag

    mode = "shadow" if is_on else "prepared"
    tag = RolloutTag("benchmark", seq, mode, 0, "ab", 2, 1, f"benchmark:{seq}", 60_000.0)
    client = MlflowClient(tracking_uri=store.env["MLFLOW_TRACKING_URI"])
    client.set_registered_model_tag(name, TAG, tag.to_json())


def _wait_for(process: psutil.Process) -> None:
    """Wait until the server has read the tag and loaded the candidate: it is idle again."""
    time.sleep(5 * POLL_S)
    while process.cpu_percent(1.0) > 20:
        pass

"""deploy/prometheus and deploy/systemd fit a running server: metrics, rules, dashboard, units.

Prometheus is Debian's package: apt-get install prometheus. Grafana is not available; each query of
its dashboard is run by Prometheus.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, find_port
from tests.e2e.stripes import COUNTS, evaluate_and_promote, train_version
from tests.e2e.stripes import NAME as MODEL
from tests.promql import find_missing, list_series, list_uses, read_dashboard, read_rules

PROMETHEUS = ROOT / "deploy" / "prometheus"
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.*"))
PAGE = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
NUM_IMAGES = 60  # enough for a window of `monitor live`
START_S = 120.0
# panels that show something of a server without a rollout and without failures
FILLED = ("Requests per second", "Response time", "Predicted classes", "Loaded versions", "model")
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus"
)
prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no Prometheus: apt-get install prometheus"
)
pytestmark = pytest.mark.xdist_group("alerts")


def get(url: str, body: bytes | None = None, media_type: str = "image/png") -> str:
    """Return the content of a page, or the response to a body."""
    request = urllib.request.Request(url, body, {"Content-Type": media_type} if body else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.read().decode())


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """Return the first true value of a condition; fail if the process ends or time is over."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (OSError, urllib.error.URLError):
            pass
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@contextmanager
def started(command: list[str], folder: Path, **env: str) -> Iterator[tuple[Any, Path]]:
    """Run a program in a folder; yield its process and the file of its output."""
    log = folder / f"{Path(command[0]).name}.log"
    names = [name for name in os.environ if not name.startswith(("EYEVSAI_", "MLFLOW_"))]
    environment = {name: os.environ[name] for name in names} | {"PYTHONPATH": str(ROOT)} | env
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env=environment
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Server:
    """A running server of MODEL that has answered `NUM_IMAGES` requests."""

    url: str
    process: subprocess.Popen[bytes]
    metrics: str  # of /metrics
    textfiles: tuple[str, ...]  # of `monitor live`, and of `watch`, which replaces it

    @property
    def series(self) -> dict[str, set[str] | None]:
        texts = (self.metrics, *self.textfiles)
        return {name: labels for text in texts for name, labels in list_series(text).items()}


@pytest.fixture(scope="module")
def server(
    template_store: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("alerts")
    run = train_version(folder, template_store, cache_dir)
    evaluate_and_promote(run)
    url = f"http://127.0.0.1:{(port := find_port())}"
    command = [sys.executable, "-m", "eyevsai", "serve", MODEL, "--port", str(port)]
    with started(command, folder, **run.keywords) as (process, log):
        wait_for(lambda: get(f"{url}/ready") is not None, process, log)
        paths = sorted((folder / "data").rglob("*.png"))[:: sum(COUNTS.values()) // NUM_IMAGES]
        answers = [json.loads(get(f"{url}/v1/predict", path.read_bytes())) for path in paths]
        labels = [
            {"id": answer["id"], "label": path.parent.name, "source": "person:ada"}
            for answer, path in zip(answers, paths, strict=True)
        ]
        get(f"{url}/v1/feedback", json.dumps(labels).encode(), "application/json")
        written = "eyevsai_feedback_total{"
        wait_for(lambda: written in get(f"{url}/metrics"), process, log)
        textfiles = [folder / "monitor.prom", folder / "watch.prom"]
        said = [
            run("monitor", "live", MODEL, "--metrics-file", str(textfiles[0]), code=None),
            run("watch", MODEL, "--once", "--metrics-file", str(textfiles[1]), code=None),
        ]
        assert all(path.exists() for path in textfiles), said
        texts = tuple(path.read_text(encoding="utf-8") for path in textfiles)
        yield Server(url, process, get(f"{url}/metrics"), texts)


def test_rules_use_metrics_that_are_exported(server: Server) -> None:
    rules = read_rules(PROMETHEUS / "alerts.yml")
    missing = {name: find_missing(rule["expr"], server.series) for name, rule in rules.items()}
    assert not {name: names for name, names in missing.items() if names}


def test_each_query_of_the_dashboard_uses_metrics_that_are_exported(server: Server) -> None:
    queries = list(read_dashboard(PROMETHEUS / "grafana.json"))
    assert len(queries) > 30
    missing = {title: find_missing(query, server.series) for title, query in queries}
    assert not {title: names for title, names in missing.items() if names}
    own = {title for title, query in queries if not list_uses(query)}
    assert own == {"Servers", "Alerts"}  # metrics of Prometheus itself


def test_page_lists_each_metric_with_its_labels(server: Server) -> None:
    suffix = re.compile(r"_(bucket|sum|count|created)$")
    exported: dict[str, set[str]] = {}
    for name, labels in server.series.items():
        if name.startswith("eyevsai_") and not name.endswith("_created"):
            exported.setdefault(suffix.sub("", name), set()).update((labels or set()) - {"le"})
    documented: dict[str, set[str]] = {}
    for names, label_lists in re.findall(r"^\| (`eyevsai_[^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE):
        given = label_lists.split(";")
        for index, short in enumerate(re.findall(r"`(\w+)`", names)):
            name = short if short.startswith("eyevsai_") else f"eyevsai{short}"
            words = given[index if len(given) > 1 else 0].replace("none", "")
            documented[name] = {word.strip() for word in words.split(",") if word.strip()}
    assert documented.keys() == exported.keys()
    for name, labels in exported.items():
        if labels:
            assert documented[name] == labels, name


def test_page_describes_each_rule_with_its_severity() -> None:
    rules = read_rules(PROMETHEUS / "alerts.yml")
    rows = dict(re.findall(r"^\| `(Eyevsai\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    assert rows == {name: rule["labels"]["severity"] for name, rule in rules.items()}
    for rule in rules.values():
        assert rule["annotations"].keys() == {"summary", "description"}


@promtool
@pytest.mark.processes("promtool")
def test_promtool_accepts_rules_configuration_and_metrics(server: Server) -> None:
    for arguments in (
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for text in (server.metrics, *server.textfiles):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text.encode(), capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ours = [line for line in done.stderr.decode().splitlines() if "eyevsai" in line]
        assert ours == []  # advice on names


def test_each_rule_has_a_test() -> None:
    tests = (PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8")
    fired = set(re.findall(r'alertname="(\w+)"', tests))
    assert fired == read_rules(PROMETHEUS / "alerts.yml").keys()


@contextmanager
def scraping(server: Server, folder: Path) -> Iterator[Callable[[str], Any]]:
    """Run Prometheus on a server; yield a function that returns data of its API."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    job = config["scrape_configs"][0]
    job["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    url = f"127.0.0.1:{find_port()}"
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={url}",
    ]

    def ask(path: str) -> Any:
        return json.loads(get(f"http://{url}/api/v1/{path}"))["data"]

    with started(command, folder) as (process, log):
        wait_for(lambda: ask("query?query=up%7Bjob=%22eyevsai%22%7D")["result"], process, log)
        yield ask


@prometheus
@pytest.mark.processes("Prometheus, and the server that it reads")
@pytest.mark.timeout(300)
def test_prometheus_reads_the_server_and_evaluates_rules_and_queries(
    server: Server, tmp_path: Path
) -> None:
    def read_states(ask: Callable[[str], Any]) -> dict[str, str]:
        groups = ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert {rule["lastError"] for rule in rules if rule["health"] == "err"} == set()
        return {
            rule["name"]: rule["state"]
            for rule in rules
            if all(each["health"] == "ok" for each in rules)
        }

    with scraping(server, tmp_path) as ask:
        targets = {each["labels"]["job"]: each for each in ask("targets")["activeTargets"]}
        target = targets["eyevsai"]
        assert target["health"] == "up", target["lastError"]
        deadline = time.monotonic() + 60
        while not (states := read_states(ask)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert states.keys() == read_rules(PROMETHEUS / "alerts.yml").keys()
        assert {name for name, state in states.items() if state != "inactive"} == set()
        for title, query in read_dashboard(PROMETHEUS / "grafana.json"):
            bound = query.replace("$model", MODEL).replace("$__rate_interval", "1m")
            request = f"query?{urllib.parse.urlencode({'query': bound})}"
            # a rate exists from the second scrape
            while not ask(request)["result"] and title in FILLED and time.monotonic() < deadline:
                time.sleep(0.2)
            assert ask(request)["result"] or title not in FILLED, title
        server.process.kill()
        server.process.wait()
        while read_states(ask).get("EyevsaiServerDown") != "pending":
            assert time.monotonic() < deadline + 60
            time.sleep(0.2)


@pytest.mark.processes("systemd-analyze")
def test_units_are_valid_and_start_commands_that_exist(tmp_path: Path) -> None:
    from tests.e2e.test_pages import check_eyevsai  # reads all pages

    assert {path.name for path in UNITS} >= {"eyevsai-serve@.service", "eyevsai-watch@.timer"}
    copies = []
    for path in UNITS:
        text = path.read_text(encoding="utf-8")
        for line in re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE):
            words = line.replace("%i", MODEL).replace(" $SERVE_OPTIONS", "").split()
            check_eyevsai(words[1:], path.name, loose=False)
        copies.append(tmp_path / path.name.replace("@", "@model-1."))
        copies[-1].write_text(re.sub(r"/opt/eyevsai/bin/eyevsai", "/bin/true", text))
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    command = ["systemd-analyze", "verify", "--man=no", *map(str, copies)]
    done = subprocess.run(command, capture_output=True, text=True)
    problems = [line for line in done.stderr.splitlines() if "eyevsai" in line]
    assert (done.returncode, problems) == (0, [])


def test_compose_serves_with_options_that_exist() -> None:
    from tests.e2e.test_pages import check_eyevsai

    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    service = compose["services"]["serve"]
    assert service["profiles"] == ["serve"]  # not part of a team server without a model
    words = [re.sub(r"\$\{[^}]+\}", "x", str(word)) for word in service["command"]]
    check_eyevsai(words, "compose.yaml", loose=False)
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])

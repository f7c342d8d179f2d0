"""`eyevsai serve`: cost of a request, latency, overload, hot swaps, start.

The client runs on the same cores; the CPU time of the server is that of its process (psutil).
Models: digits deep_v1 (below 1 ms), transfer/efficientnet_lite0 at 192 px (about 10 ms) and
transfer/resnet50 at 192 px (about 50 ms), untrained weights, ONNX.

cost      closed loop: CPU time of the server per request beyond decode + resize + session, and
          images/s of the server / of as many threads that predict the same bytes without a server.
          Limits: 0.8 ms; 0.90 at 10 ms, 0.95 from 40 ms.
sessions  images/s of two threads with one ONNX Runtime session, and with one each.
mlflow    requests per CPU second at 8 clients / those of `mlflow models serve`, digits. Limit: 5.
latency   p99 at half of the capacity, Poisson arrivals. Limit: 3 x model time + 5 ms.
overload  twice the capacity, 60 s: accepted / capacity (limit 0.9), p99 of refusals (50 ms), growth
          of the memory (200 MB), requests without an answer (0).
swaps     20 swaps at half of the capacity: failed requests (limit 0 of 2,000), growth of memory.
start     time until ready / (import of mlflow, onnxruntime and fastapi + load of the model).
          Limit: 1.5.

`python -m benchmarks.serving NAME ...` measures some of them. EYEVSAI_BENCHMARK_SECONDS is the
duration of a load, 20 s by default; that of the overload is three times as long.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.http_load import Load, read_load, run_load, start_load
from benchmarks.variables import read_number
from tests.conftest import draw_scene, find_port
from tests.invoke import invoke

SECONDS = read_number("EYEVSAI_BENCHMARK_SECONDS", 20.0, 0.1)
WORKERS = 2
PREDICT, IMAGE = "/v1/predict", "image/jpeg"
TRANSFER = (
    *("--model", "transfer", "--weights", "none", "--image-size", "192", "--tuned", "never"),
    *("--freeze-epochs", "1", "--fine-tune-epochs", "0", "--batch-size", "8"),
)
MODELS = {
    "digits": ("digits-deep_v1-standard", ("--epochs", "1", "--tuned", "never")),
    "10 ms": (
        "scenes-transfer-efficientnet_lite0",
        (*TRANSFER, "--variation", "efficientnet_lite0"),
    ),
    "50 ms": ("scenes-transfer-resnet50", (*TRANSFER, "--variation", "resnet50")),
}
IMPORTS = "import mlflow, onnxruntime, fastapi"
MB = 2**20


@dataclass
class Store:
    """Folder with a store, and what runs in it."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Environment variables of the store."""
        return {
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "EYEVSAI_STATE": str(self.folder / "state"),
            "EYEVSAI_CACHE": str(self.folder / "cache"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def run(self, *arguments: str) -> None:
        """Run `eyevsai ARGUMENTS` in this process."""
        invoke(self.folder, *arguments, code=0, **self.env)

    def add(self, model: str) -> str:
        """Train, export and put a model in production; return its name."""
        from mlflow import MlflowClient

        name, flags = MODELS[model]
        client = MlflowClient(tracking_uri=self.env["MLFLOW_TRACKING_URI"])
        if not (self.folder / f"{name}.done").exists():
            data = () if model == "digits" else ("--data", str(self._draw()))
            self.run("train", *data, *flags)
            version = f"{name}/1"
            self.run("export", version, "--format", "onnx")
            client.set_registered_model_alias(name, "production", "1")
            (self.folder / f"{name}.done").touch()
        return name

    def image(self, model: str) -> Path:
        """Return an image file for a model."""
        if model == "digits":
            return next((self.folder / "cache" / "digits" / "7").glob("*.png"))
        return next(self._draw().rglob("*.jpg"))

    def _draw(self) -> Path:
        folder = self.folder / "scenes"
        for number in range(0 if folder.exists() else 24):
            path = folder / f"class_{number % 3}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_scene(number, 160).save(path, quality=90)
        return folder


@contextmanager
def serving(store: Store, name: str, *flags: str) -> Iterator[tuple[int, psutil.Process, float]]:
    """Yield port, process and seconds until ready of a server."""
    port, start = find_port(), time.perf_counter()
    command = [sys.executable, "-m", "eyevsai", "serve", name, "--port", str(port)]
    command += ["--workers", str(WORKERS), *flags]
    with running(command, store, f"http://127.0.0.1:{port}/ready") as process:
        yield port, process, time.perf_counter() - start


@contextmanager
def running(command: list[str], store: Store, ready: str) -> Iterator[psutil.Process]:
    """Run a program inside the block, after it was ready."""
    # the servers choose their number of threads themselves
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    with open(store.folder / "server.log", "ab") as output:
        child = subprocess.Popen(
            command, cwd=store.folder, env=env | store.env, stdout=output, stderr=output
        )
    try:
        while not _responds(ready):
            if child.poll() is not None:
                sys.exit(f"The server ended; see {output.name}.")
            time.sleep(0.02)
        yield psutil.Process(child.pid)
    finally:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(child.pid).children(recursive=True):
                process.terminate()
        child.terminate()
        child.wait(30)


def _responds(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU time of a process and its children."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


@dataclass
class Raw:
    """Prediction without a server: CPU time per image and images/s of the threads."""

    cpu_s: float
    rate: float


def measure_raw(store: Store, name: str, image: bytes) -> Raw:
    """Predict the same bytes with the same number of threads in a process of its own."""
    code = (
        "import json, sys; from benchmarks.serving import predict_raw; "
        "print(json.dumps(predict_raw(*sys.argv[1:])))"
    )
    path = store.folder / "raw.image"
    path.write_bytes(image)
    command = [sys.executable, "-c", code, name, str(path), str(SECONDS / 2)]
    env = os.environ | store.env | {"PYTHONPATH": str(Path.cwd())}
    output = subprocess.run(command, env=env, capture_output=True, check=True, encoding="utf-8")
    return Raw(*json.loads(output.stdout.splitlines()[-1]))


def predict_raw(name: str, path: str, seconds: str) -> tuple[float, float]:
    """Return CPU seconds per image, and images/s, of `WORKERS` threads."""
    import torch

    from eyevsai.serving.classifier import load_classifier

    torch.set_num_threads(1)
    classifier, image = load_classifier(f"models:/{name}/1"), Path(path).read_bytes()
    rate, cpu = run_threads(
        lambda: classifier.predict_squares([classifier.resize_to_square(_decode(image))]),
        seconds=float(seconds),
    )
    return cpu, rate


def _decode(image: bytes) -> Any:
    from eyevsai.serving.images import decode_image

    return decode_image(image)


def run_threads(*functions: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Call functions in `WORKERS` threads, which share them if there are fewer.

    Returns:
        Calls per second, and CPU seconds per call.
    """
    counts, end = [0] * WORKERS, time.perf_counter() + seconds

    def work(number: int) -> None:
        function = functions[number % len(functions)]
        while time.perf_counter() < end:
            function()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    start, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(counts)
    return total / (time.perf_counter() - start), (time.process_time() - cpu) / total


def measure_cost(store: Store) -> None:
    """Print the cost of a request, and the throughput relative to prediction alone."""
    for model in MODELS:
        name, image = store.add(model), store.image(model)
        for flags in (("--log", "off"), ()):
            raw = measure_raw(store, name, image.read_bytes())
            with serving(store, name, *flags) as (port, process, _):
                load = Load(port, PREDICT, str(image), IMAGE, SECONDS, 2 * WORKERS)
                run_load(Load(**vars(load) | {"seconds": 2}))  # warm
                before = cpu_s(process)
                result = run_load(load)
                spent = (cpu_s(process) - before) / result.count()
            print(
                f"cost     {model:<7}{'log off' if flags else 'log on ':<8} server "
                f"{1000 * spent:6.2f} ms CPU/request, prediction {1000 * raw.cpu_s:6.2f}, beyond "
                f"{1000 * (spent - raw.cpu_s):5.2f} ms (limit 0.80); {result.rate():7.1f} of "
                f"{raw.rate:7.1f} images/s: {result.rate() / raw.rate:.2f}; p50 "
                f"{result.percentile(0.5):.1f} ms, client "
                f"{1000 * result.cpu_s / result.total():.2f} ms CPU/request",
                flush=True,
            )


def measure_sessions(store: Store) -> None:
    """Print the images/s of two threads with one session, and with one each."""
    import torch

    from eyevsai.serving.classifier import load_classifier

    torch.set_num_threads(1)
    os.environ.update(store.env)
    for model in MODELS:
        name = store.add(model)
        shared, other = (load_classifier(f"models:/{name}/1") for _ in range(2))
        square = shared.resize_to_square(_decode(store.image(model).read_bytes()))
        first = partial(shared.predict_squares, [square])
        second = partial(other.predict_squares, [square])
        one, each = [], []
        for _ in range(3):
            one.append(run_threads(first, seconds=SECONDS / 6)[0])
            each.append(run_threads(first, second, seconds=SECONDS / 6)[0])
        ratio = statistics.median(one) / statistics.median(each)
        print(
            f"sessions {model:<7} one {statistics.median(one):.1f} images/s, one each "
            f"{statistics.median(each):.1f}: {ratio:.2f}",
            flush=True,
        )


def measure_mlflow(store: Store) -> None:
    """Print the requests per CPU second relative to `mlflow models serve`."""
    name, image = store.add("digits"), store.image("digits")
    text = base64.b64encode(image.read_bytes()).decode()
    body = store.folder / "records.json"
    body.write_text(json.dumps({"dataframe_records": [{"image": text}]}), encoding="utf-8")
    port, rates = find_port(), {}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{name}/1"]
    command += ["--env-manager", "local", "--port", str(port), "--workers", "1"]
    with running(command, store, f"http://127.0.0.1:{port}/ping") as process:
        rates["mlflow"] = _requests_per_cpu_s(
            process, Load(port, "/invocations", str(body), "application/json", SECONDS, 8)
        )
    for flags in (("--log", "off"), ()):
        log = "log off" if flags else "log on"
        with serving(store, name, *flags) as (port, process, _):
            load = Load(port, "/invocations", str(body), "application/json", SECONDS, 8)
            rates[f"/invocations, {log}"] = _requests_per_cpu_s(process, load)
            load = Load(port, PREDICT, str(image), "image/png", SECONDS, 8)
            rates[f"{PREDICT}, {log}"] = _requests_per_cpu_s(process, load)
    for kind, rate in rates.items():
        print(f"mlflow   {kind:<24} {rate:7.0f} requests/CPU s: {rate / rates['mlflow']:.1f} x")


def _requests_per_cpu_s(process: psutil.Process, load: Load) -> float:
    run_load(Load(**vars(load) | {"seconds": 2}))
    before = cpu_s(process)
    result = run_load(load)
    assert result.count() == result.total(), {key: len(v) for key, v in result.latencies.items()}
    return result.count() / (cpu_s(process) - before)


def find_capacity(port: int, image: Path) -> float:
    """Return the answers per second of a closed loop."""
    return run_load(Load(port, PREDICT, str(image), IMAGE, SECONDS / 2, 4 * WORKERS)).rate()


def measure_latency(store: Store) -> None:
    """Print the 99th percentile at half of the capacity."""
    for model in MODELS:
        name, image = store.add(model), store.image(model)
        with serving(store, name) as (port, _, _):
            alone = run_load(Load(port, PREDICT, str(image), IMAGE, 3, 1)).percentile(0.5)
            capacity = find_capacity(port, image)
            result = run_load(Load(port, PREDICT, str(image), IMAGE, SECONDS, 512, capacity / 2))
        limit = 3 * alone + 5
        print(
            f"latency  {model:<7} capacity {capacity:.0f}/s; at half p50 "
            f"{result.percentile(0.5):.1f}, p99 {result.percentile(0.99):.1f} ms (limit "
            f"{limit:.1f}: 3 x {alone:.1f} ms of one client + 5); {result.count()} of "
            f"{result.total()} answered",
            flush=True,
        )


def measure_overload(store: Store) -> None:
    """Print what becomes of twice the capacity."""
    name, image = store.add("10 ms"), store.image("10 ms")
    with serving(store, name) as (port, process, _):
        capacity = find_capacity(port, image)
        before = process.memory_info().rss
        load = Load(port, PREDICT, str(image), IMAGE, 3 * SECONDS, 512, 2 * capacity)
        result = run_load(load)
        grown = (process.memory_info().rss - before) / MB
        after = find_capacity(port, image)
    print(
        f"overload capacity {capacity:.0f}/s, then {result.total() / result.seconds:.0f}/s: "
        f"accepted {result.rate():.0f}/s = {result.rate() / capacity:.2f} (limit 0.90), p99 "
        f"{result.percentile(0.99):.0f} ms; refused {result.count(503)}, p99 "
        f"{result.percentile(0.99, 503):.0f} ms (limit 50); without an answer {result.count(0)}; "
        f"memory {grown:+.0f} MB (limit 200); capacity afterwards {after:.0f}/s",
        flush=True,
    )


def measure_swaps(store: Store) -> None:
    """Print what becomes of requests during 20 swaps."""
    from mlflow import MlflowClient

    name, image = store.add("10 ms"), store.image("10 ms")
    client = MlflowClient(tracking_uri=store.env["MLFLOW_TRACKING_URI"])
    if len(client.search_model_versions(f"name = '{name}'")) < 2:
        data = ("--data", str(store.folder / "scenes"))
        store.run("train", *data, *MODELS["10 ms"][1], "--seed", "1")
        store.run("export", f"{name}/2", "--format", "onnx")
    with serving(store, name, "--poll-s", "0.5") as (port, process, _):
        capacity = find_capacity(port, image)
        before = process.memory_info().rss
        seconds = max(3 * SECONDS, 40, 2 * 2_200 / capacity)
        load = start_load(Load(port, PREDICT, str(image), IMAGE, seconds, 512, capacity / 2))
        swaps, started = 0, time.perf_counter()
        while swaps < 20 and time.perf_counter() - started < seconds:
            number = 2 - swaps % 2
            client.set_registered_model_alias(name, "production", str(number))
            while _served_version(port) != number:
                time.sleep(0.05)
            swaps += 1
        took = time.perf_counter() - started
        result = read_load(load)
        grown = (process.memory_info().rss - before) / MB
    client.set_registered_model_alias(name, "production", "1")
    print(
        f"swaps    {swaps} in {took:.0f} s: failed {result.total() - result.count()} of "
        f"{result.total()} (limit 0 of 2,000); p99 {result.percentile(0.99):.0f} ms; memory "
        f"{grown:+.0f} MB",
        flush=True,
    )


def _served_version(port: int) -> int:
    url = f"http://127.0.0.1:{port}/v1/status"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(json.load(answer)["versions"][0]["version"])


def measure_start(store: Store) -> None:
    """Print the time until ready relative to the imports and the load of the model."""
    name = store.add("digits")
    load = (
        f"import time; {IMPORTS}; start = time.perf_counter(); "
        "from eyevsai.serving.classifier import load_classifier; import torch; "
        "start = time.perf_counter(); "
        f"load_classifier('models:/{name}/1'); print(time.perf_counter() - start)"
    )
    env = os.environ | store.env
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, env=env)
        imports = time.perf_counter() - start
        process = subprocess.run(
            [sys.executable, "-c", load], check=True, env=env, capture_output=True, encoding="utf-8"
        )
        model = float(process.stdout.splitlines()[-1])
        with serving(store, name) as (_, _, seconds):
            ratios.append((seconds / (imports + model), seconds, imports, model))
    ratio, seconds, imports, model = sorted(ratios)[1]
    print(
        f"start    ready after {seconds:.1f} s; imports {imports:.1f} + model {model:.1f} s: "
        f"{ratio:.2f} (limit 1.5)",
        flush=True,
    )


MEASUREMENTS = {
    "start": measure_start,
    "cost": measure_cost,
    "sessions": measure_sessions,
    "mlflow": measure_mlflow,
    "latency": measure_latency,
    "overload": measure_overload,
    "swaps": measure_swaps,
}


def main(names: tuple[str, ...] = tuple(MEASUREMENTS)) -> None:
    with contextlib.ExitStack() as stack:
        folder = os.environ.get("EYEVSAI_BENCHMARK_FOLDER")  # kept between calls
        path = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        path.mkdir(parents=True, exist_ok=True)
        for name in names:
            MEASUREMENTS[name](Store(path))


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or tuple(MEASUREMENTS))

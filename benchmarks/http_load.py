"""HTTP client that measures: requests of one body, in a closed or an open loop.

    python -m benchmarks.http_load SETTINGS     JSON in, JSON out: a process of its own

It writes prepared bytes to sockets and reads statuses, so that it takes little of the cores that it
shares with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Load:
    """Requests to send.

    Attributes:
        port: port of the server on 127.0.0.1.
        path: path of the requests.
        body: file with the body.
        media_type: media type of the body.
        seconds: duration.
        connections: number of connections: of a closed loop, or at most of an open one.
        rate: requests per second of an open loop with Poisson arrivals; 0 for a closed loop.
    """

    port: int
    path: str
    body: str
    media_type: str
    seconds: float
    connections: int
    rate: float = 0.0


@dataclass
class Result:
    """Statuses with their latencies in seconds, and the duration.

    Latencies of an open loop begin at the planned time of a request, so that a client that is late
    hides nothing. A request without an answer has the status 0.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)

    def count(self, status: int = 200) -> int:
        """Return the number of answers with a status."""
        return len(self.latencies.get(str(status), ()))

    def total(self) -> int:
        """Return the number of requests."""
        return sum(map(len, self.latencies.values()))

    def rate(self, status: int = 200) -> float:
        """Return the answers with a status per second."""
        return self.count(status) / self.seconds

    def percentile(self, share: float, status: int = 200) -> float:
        """Return a percentile of the latencies of a status, in ms."""
        values = sorted(self.latencies.get(str(status), ()))
        return 1000 * values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def run_load(load: Load) -> Result:
    """Send requests from a process of its own, and return what came back."""
    with start_load(load) as process:
        return read_load(process)


def start_load(load: Load) -> subprocess.Popen[str]:
    """Start the client, and return its process."""
    command = [sys.executable, "-m", "benchmarks.http_load", json.dumps(asdict(load))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")


def read_load(process: subprocess.Popen[str]) -> Result:
    """Wait for the client, and return its result."""
    output, _ = process.communicate()
    return Result(**json.loads(output))


class _Client:
    """Connections to a server and the requests on them."""

    def __init__(self, load: Load) -> None:
        body = Path(load.body).read_bytes()
        head = (
            f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\n"
            f"Content-Type: {load.media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._load = load
        self._idle: list[Any] = []
        self.result = Result()

    async def run(self) -> Result:
        """Send the requests, and return what came back."""
        start, cpu = time.perf_counter(), time.process_time()
        await (self._run_open() if self._load.rate else self._run_closed())
        self.result.seconds = time.perf_counter() - start
        self.result.cpu_s = time.process_time() - cpu
        return self.result

    async def _run_closed(self) -> None:
        end = time.perf_counter() + self._load.seconds

        async def repeat() -> None:
            while (now := time.perf_counter()) < end:
                await self._send(now)

        await asyncio.gather(*(repeat() for _ in range(self._load.connections)))

    async def _run_open(self) -> None:
        start = time.perf_counter()
        arrivals, at = random.Random(0), 0.0
        tasks = set[asyncio.Task[None]]()
        while (at := at + arrivals.expovariate(self._load.rate)) < self._load.seconds:
            if (pause := start + at - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            if len(tasks) >= self._load.connections:
                self._note(0, 0.0)
                continue
            task = asyncio.create_task(self._send(start + at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _send(self, since: float) -> None:
        status, connection = 0, None
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.TimeoutError):
            connection = self._idle.pop() if self._idle else await self._connect()
            reader, writer = connection
            writer.write(self._request)
            status = await asyncio.wait_for(_read_answer(reader), 60)
            self._idle.append(connection)
        if not status and connection is not None:
            connection[1].close()
        self._note(status, time.perf_counter() - since)

    async def _connect(self) -> Any:
        return await asyncio.open_connection("127.0.0.1", self._load.port)

    def _note(self, status: int, seconds: float) -> None:
        self.result.latencies.setdefault(str(status), []).append(seconds)


async def _read_answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


if __name__ == "__main__":
    result = asyncio.run(_Client(Load(**json.loads(sys.argv[1]))).run())
    print(json.dumps(asdict(result)))

"""Requests a second, and CPU a request, with HTTP/2 between two Envoys over mTLS, against HTTP/1.1 between the same.

The pair that is configured by hand (`static_pair`), with a second caller's half that differs in the protocol alone. The
app and what loads it speak HTTP/1.1 either way. In turns.
"""

import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from deploy.demo.processes import Processes
from tests.bench.data_path import Sample, Way, pin, sample
from tests.bench.harness import Figure, Target, figure
from tests.bench.stage import HOST, answers, start_envoy, write_static_pair
from tests.bench.wrk import Wrk, find_wrk
from tests.support.net import eventually, free_ports

PAIRS = 25
WARM_UP = 2  # pairs
APP = "127.0.0.1"
PROTOCOLS = ("http2", "http1")
_CONNECTIONS = re.compile(r"upstream_cx_(http\d)_total: (\d+)")
_HTTP2 = "{http2_protocol_options: *http2}"


@dataclass(frozen=True, slots=True)
class Callers:
    """Proxy port of each caller's half, by the protocol that it speaks to the receiver's."""

    directory: Path
    processes: Processes
    ports: dict[str, int]

    def way(self, protocol: str) -> Way:
        pids = ((self.processes.pid(protocol),), (self.processes.pid("receiver"),))
        return Way(f"http://127.0.0.1:{self.ports[protocol]}/", pids)

    async def check(self) -> None:
        """Each has spoken its protocol and no other. Raises AssertionError."""
        for protocol in PROTOCOLS:
            said = await _admin(self.directory / f"{protocol}.sock", "/stats?filter=receiver.upstream_cx_http")
            counted = {found[1]: int(found[2]) for found in _CONNECTIONS.finditer(said)}
            if not counted.get(protocol) or any(value for name, value in counted.items() if name != protocol):
                raise AssertionError(f"the caller for {protocol} had connections {counted}")


@asynccontextmanager
async def open_callers(directory: Path) -> AsyncIterator[Callers]:
    """App, receiver and both callers run, and both ways answer 200. At the end nothing is left."""
    processes = Processes(directory / "log")
    app_port, *ports = free_ports(1 + len(PROTOCOLS))
    pair = write_static_pair(directory / "static", APP, processes, app_port=app_port)
    template = (pair.directory / "caller.yaml").read_text()
    try:
        for name in ("app", "receiver"):
            await start_envoy(processes, name, pair.directory / f"{name}.yaml")
        for protocol, port in zip(PROTOCOLS, ports, strict=True):
            filled = _replaced(
                template,
                {
                    f"port_value: {pair.proxy_port}}}": f"port_value: {port}}}",
                    "/caller.sock": f"/{protocol}.sock",
                    "/client.log": f"/{protocol}.log",
                    _HTTP2: _HTTP2 if protocol == "http2" else "{http_protocol_options: {}}",
                },
            )
            config = pair.directory / f"{protocol}.yaml"
            config.write_text(filled)
            await start_envoy(processes, protocol, config)
        for port in ports:
            await eventually(f"{HOST} answers through port {port}", lambda p=port: answers("127.0.0.1", p))
        yield Callers(pair.directory, processes, dict(zip(PROTOCOLS, ports, strict=True)))
    finally:
        await processes.stop_all()
        processes.kill_left_over()


def _replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        if text.count(old) != 1:
            raise AssertionError(f"static_pair/caller.yaml has {old!r} {text.count(old)} times, not once")
        text = text.replace(old, new)
    return text


async def _admin(socket: Path, path: str) -> str:
    async with await trio.open_unix_socket(str(socket)) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
        return b"".join([part async for part in stream]).decode()


async def compare(callers: Callers, wrk: Wrk) -> list[Figure]:
    # As in data_path: the caller's half and the app on one core, the receiver's half and the load on another.
    cores = sorted(os.sched_getaffinity(0))
    one, other = cores[0], cores[-1]
    for name, core in (("app", one), ("receiver", other), *((protocol, one) for protocol in PROTOCOLS)):
        pin(callers.processes.pid(name), core)
    requests, cpu = [], []
    for number in range(WARM_UP + PAIRS):
        found: dict[str, Sample] = {}
        for protocol in PROTOCOLS if number % 2 else reversed(PROTOCOLS):
            found[protocol] = await sample(wrk, callers.way(protocol), other)
        if number >= WARM_UP:
            subject, baseline = (found[protocol] for protocol in PROTOCOLS)
            requests.append((subject.per_second, baseline.per_second))
            cpu.append((subject.cpu_us, baseline.cpu_us))
    await callers.check()
    what = "with HTTP/2 between two Envoys over mTLS, against HTTP/1.1"
    return [
        figure("upstream_protocol", f"requests a second {what}", requests, "1/s", Target(">=", 0.97)),
        figure("upstream_protocol_cpu", f"CPU a request {what}", cpu, "us", Target("<=", 1.0)),
    ]


async def measure(directory: Path) -> list[Figure]:
    wrk = await trio.to_thread.run_sync(find_wrk, lambda line: print(line, file=sys.stderr, flush=True))
    async with open_callers(directory) as callers:
        return await compare(callers, wrk)


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))

"""A real Envoy that is fed by a `Feed`, and its admin interface."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataplane.compile.compiler import Compiler
from dataplane.compile.open_streams import AGENT_CLUSTER, OpenStream
from dataplane.compile.resources import LISTENER, ROUTES, Resource, ResourceKey
from dataplane.compile.telemetry import LAYER
from dataplane.envoy import sockets
from dataplane.envoy.bootstrap import BootstrapInput, bootstrap
from tests.dataplane.compile.feed import Feed
from tests.support.envoy import envoy_path

_READY_SECONDS = 20.0  # bounds for a busy machine; Envoy itself takes 0.2 s
_POLL_SECONDS = 0.01
_STATE_OF_LISTENER = "name,active_state.version_info,warming_state.version_info,error_state"


class FedEnvoy:
    """One Envoy process. `close` ends it; `stop` and `start` restart it with the same configuration."""

    def __init__(self, name: str, directory: Path, feed_socket: Path, reports: Sequence[OpenStream] = ()) -> None:
        self.name = name
        self.reports = reports
        """What it, and others on the same feed, have told of what is open."""
        self.feed = Feed()
        self.drain_seconds = 600  # Envoy's default; counts from the next start
        self._directory = directory
        self._admin = directory / f"{name}.admin"
        self._feed_socket = feed_socket
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._directory / f"{self.name}.json"
        config.write_text(json.dumps(self._bootstrap()))
        self._admin.unlink(missing_ok=True)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [
                    str(envoy_path()),
                    "-c",
                    str(config),
                    "--disable-hot-restart",
                    "--concurrency",
                    "1",
                    "-l",
                    "warning",
                    "--file-flush-interval-msec",
                    "10",
                    "--drain-time-s",
                    str(self.drain_seconds),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_READY_SECONDS)
            self._process = None

    def close(self) -> None:
        self.stop(signal.SIGKILL)

    def shut_outside(self) -> int:
        """As an agent does."""
        assert self._process is not None
        pidfd = os.pidfd_open(self._process.pid)
        try:
            return sockets.shut_outside(pidfd, self._process.pid)
        finally:
            os.close(pidfd)

    @property
    def access_log(self) -> Path:
        return self._directory / f"{self.name}.access.log"

    @property
    def _log(self) -> Path:
        return self._directory / f"{self.name}.log"

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # -- what it is to run

    def run(self, compiler: Compiler) -> None:
        """Give it everything that `compiler` has built; return when Envoy has taken it and serves it."""
        self.give(compiler.resources())

    def give(self, resources: Mapping[ResourceKey, Resource]) -> None:
        self.feed.give(resources)
        listeners = {key.name for key in resources if key.type_url == LISTENER}
        routes = {key.name for key in resources if key.type_url == ROUTES}
        self.feed.wait_settled(listeners | routes)
        wait_until(f"{self.name} has warmed up", lambda: not self.unready(listeners))

    def unready(self, listeners: set[str]) -> list[str]:
        """What is not in force: warming, refused, or not there at all."""
        found = []
        active = set()
        for one in self.dump("dynamic_listeners", _STATE_OF_LISTENER):
            if "warming_state" in one or "error_state" in one:
                found.append(f"listener {one['name']}: {one.get('error_state', 'warming')}")
            if "active_state" in one:
                active.add(one["name"])
        found += [f"cluster {one['cluster']['name']}: warming" for one in self.dump("dynamic_warming_clusters")]
        return found + [f"listener {name}: not active" for name in sorted(active ^ listeners)]

    # -- admin

    def dump(self, resource: str, mask: str = "") -> list[dict[str, Any]]:
        """mask: the fields to tell of; empty: all. Envoy takes long to write out a listener."""
        text = self.admin(f"/config_dump?resource={resource}" + (f"&mask={mask}" if mask else ""))
        return list(json.loads(text).get("configs", [])) if text.startswith("{") else []

    def admin(self, path: str, method: str = "GET") -> str:
        connection = _UnixConnection(self._admin)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        except OSError:
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"Envoy {self.name} has ended:\n{self.log()}") from None
            return ""
        finally:
            connection.close()

    def _bootstrap(self) -> dict[str, Any]:
        from_ads = {"ads": {}, "resource_api_version": "V3"}
        whole = bootstrap(BootstrapInput(self.name, "test", str(self._feed_socket), str(self._admin), 1000))
        own_runtime = whole["layered_runtime"]["layers"][0]["static_layer"]
        return {
            "node": {"id": self.name, "cluster": "test"},
            "admin": {"address": {"pipe": {"path": str(self._admin)}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "feed"}}],
                },
                "cds_config": from_ads,
                "lds_config": from_ads,
            },
            **{name: whole[name] for name in ("stats_flush_on_admin", "stats_config", "bootstrap_extensions")},
            "layered_runtime": {
                "layers": [
                    {
                        "name": "mesh",
                        "static_layer": {
                            **own_runtime,
                            "tracing": {"opentelemetry": {"flush_interval_ms": 20}},
                        },
                    },
                    {"name": LAYER, "rtds_layer": {"name": LAYER, "rtds_config": from_ads}},
                ]
            },
            "static_resources": {
                "clusters": [
                    {
                        "name": name,
                        "type": "STATIC",
                        "connect_timeout": "2s",
                        "typed_extension_protocol_options": {
                            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                                "explicit_http_config": {"http2_protocol_options": {}},
                            }
                        },
                        "load_assignment": {
                            "cluster_name": name,
                            "endpoints": [
                                {
                                    "lb_endpoints": [
                                        {"endpoint": {"address": {"pipe": {"path": str(self._feed_socket)}}}}
                                    ]
                                }
                            ],
                        },
                    }
                    for name in ("feed", AGENT_CLUSTER)
                ]
            },
        }


def lines(envoy: FedEnvoy) -> list[dict[str, Any]]:
    """Of its access log."""
    text = envoy.access_log.read_text() if envoy.access_log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def logged(envoy: FedEnvoy, **fields: object) -> dict[str, Any]:
    """The newest line with these fields, as soon as it is there."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [line for line in lines(envoy) if fields.items() <= line.items()]
        return bool(found)

    wait_until(f"{envoy.name} has logged {fields}", look)
    return found[-1]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


def wait_until(what: str, check: Callable[[], object], seconds: float = _READY_SECONDS) -> None:
    """Return as soon as `check` gives something true. Raises AssertionError that names `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"{what}: not true within {seconds:.0f} s"
        time.sleep(_POLL_SECONDS)

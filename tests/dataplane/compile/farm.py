"""A real Envoy with compiled configuration, `web`, that calls several instances of `orders`.

The instances are listeners of one more Envoy, each with mTLS and an app of its own that says its name.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from dataplane.compile.workload import Credentials, Workload
from tests.dataplane.compile.envoys import FedEnvoy, wait_until
from tests.states.build import (
    TRUST_DOMAIN,
    WEB,
    Item,
    bundle,
    compiled,
    identity,
    instance,
    locality,
    mesh_of,
    need,
    port,
    service,
    state,
)
from tests.support.envoy import envoy_path
from tests.support.pki import Authority, Leaf

HTTP, TCP = 8080, 7000  # of each instance
BOUND_TCP, PROXY = 9102, 15001  # at web
HERE = "eu/a"
CLUSTER, TCP_CLUSTER = f"outbound|orders.shop|{HTTP}", f"outbound|orders.shop|{TCP}"
_TIMEOUT = 10.0  # seconds; answers take milliseconds


class App:
    """The HTTP and the TCP server of one instance."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.status = 200
        self.fails_each = 1
        """Each so many-th request is answered with `status`, the others with 200."""
        self._asked = 0
        self.held = 0
        """Requests for /hold that wait for `release`."""
        self._go = threading.Event()
        app = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one segment: else each answer waits 40 ms for an acknowledgement

            def do_GET(self) -> None:
                if self.path == "/hold":
                    app.held += 1
                    app._go.wait(_TIMEOUT)
                    app.held -= 1
                body = app.name.encode()
                app._asked += 1
                self.send_response(app.status if app._asked % app.fails_each == 0 else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
                """Nothing: the tests look at answers."""

        class Line(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(app.name.encode() + b"\n")
                for line in self.rfile:  # until the peer has ended it
                    self.wfile.write(line)

        self.servers = (
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler),
            socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line),
        )
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def release(self) -> None:
        go, self._go = self._go, threading.Event()
        go.set()

    def close(self) -> None:
        self.release()
        for server in self.servers:
            server.shutdown()
            server.server_close()


def _instances(apps: list[App], leaf: Leaf) -> dict[str, Any]:
    """Static configuration: a listener an instance and port, and the app behind it."""
    typed = "type.googleapis.com/envoy.extensions."
    tls = {
        "@type": f"{typed}transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"inline_string": leaf.chain_pem.decode()},
                    "private_key": {"inline_string": leaf.key_pem.decode()},
                }
            ],
        },
    }
    listeners, clusters = [], []
    for app in apps:
        for number, server in zip((HTTP, TCP), app.servers, strict=True):
            name = f"{app.name}-{number}"
            route: dict[str, Any] = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}
            if number == TCP:
                connect = {"upgrade_type": "CONNECT", "connect_config": {}}
                route = {"match": {"connect_matcher": {}}, "route": {"cluster": name, "upgrade_configs": [connect]}}
            manager = {
                "@type": f"{typed}filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "http2_protocol_options": {"allow_connect": True},
                "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
                "http_filters": [
                    {
                        "name": "envoy.filters.http.router",
                        "typed_config": {"@type": f"{typed}filters.http.router.v3.Router"},
                    }
                ],
            }
            chain = {
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
            }
            listeners.append({"name": name, "address": _address(app.address, number), "filter_chains": [chain]})
            host = {"endpoint": {"address": _address("127.0.0.1", server.server_address[1])}}
            clusters.append(
                {
                    "name": name,
                    "connect_timeout": "2s",
                    "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]},
                }
            )
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _address(address: str, number: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": number}}


@dataclass
class Farm:
    web: FedEnvoy
    web_address: str
    apps: list[App]
    nowhere: str
    """An address at which nobody listens."""
    authority: Authority
    _leaf: Leaf = field(init=False)

    def __post_init__(self) -> None:
        self._leaf = self.authority.issue(uri=identity("web"))

    def close(self) -> None:
        for app in self.apps:
            app.close()

    # -- what is in etcd

    def put(self, *items: Item, only: int | None = None, zones: tuple[str, ...] = ()) -> None:
        """The first `only` instances, in `zones`, and `items`; returns when web's Envoy serves that.

        The instances are all fine, and so is their record: the cluster is a new one each time.
        """
        for app in self.apps:
            app.status, app.fails_each = 200, 1
        placed = [*zones, *[""] * len(self.apps)]
        at = [
            instance("orders", app.name, app.address, zone, http=HTTP, raw=TCP)
            for app, zone in zip(self.apps[:only], placed, strict=False)
        ]
        needs = [need("orders"), need("orders", port=TCP, bind=BOUND_TCP)]
        root = self.authority.certificate.public_bytes(Encoding.DER)
        fixed: tuple[Item, ...] = (
            service("web", port("http", 80), needs=needs),
            bundle(1, root),
            service("orders", port("http", HTTP), port("raw", TCP, "tcp")),
        )
        self._run((*fixed, *at, *items))

    def clear(self) -> None:
        """No service: whatever Envoy noted of its instances is gone."""
        self._run(())

    def _run(self, items: tuple[Item, ...]) -> None:
        of = Workload(
            service=WEB,
            trust_domain=TRUST_DOMAIN,
            inbound_address=self.web_address,
            local_address=self.web_address,
            proxy_port=PROXY,
            locality=locality(HERE),
        )
        credentials = Credentials(self._leaf.chain_pem, self._leaf.key_pem)
        self.web.run(compiled(of, mesh_of(state("now", "", *items).values), credentials))

    # -- calls by web's app

    def ask(self, path: str = "/", source: str | None = None, **headers: str) -> tuple[int, str, str]:
        """Status, who answered, and the cookie that was set; on a connection of its own, `source` its local address."""
        at = (source, 0) if source else None
        connection = http.client.HTTPConnection(self.web_address, PROXY, timeout=_TIMEOUT, source_address=at)
        try:
            connection.request("GET", path, headers={"Host": "orders.shop", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers.get("set-cookie", "")
        finally:
            connection.close()

    def served(self, requests: int, **headers: str) -> Counter[str]:
        """How many each instance answered; a failure counts by its status."""
        found = Counter[str]()
        for _ in range(requests):
            status, who, _ = self.ask(**headers)
            found[who if status == 200 else str(status)] += 1
        return found

    def bound_tcp(self, source: str | None = None) -> str:
        at = (source, 0) if source else None
        with socket.create_connection((self.web_address, BOUND_TCP), _TIMEOUT, source_address=at) as sock:
            return sock.makefile().readline().strip()

    @contextmanager
    def holding(self, count: int = 1) -> Iterator[list[Any]]:
        """Requests that are under way, all of which have reached an app; their answers after the end."""
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(self.ask("/hold"))) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            wait_until("all of them are held", lambda: sum(app.held for app in self.apps) == count)
            yield answers
        finally:
            while any(thread.is_alive() for thread in threads):
                for app in self.apps:
                    app.release()
                threads[0].join(0.01)
                for thread in threads:
                    thread.join(0.01)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """One more request, which waits for a connection."""
        thread = threading.Thread(target=self.ask)
        thread.start()
        wait_until("it waits", lambda: self.stat("upstream_rq_pending_active") == 1)
        try:
            yield
        finally:
            for app in self.apps:
                app.release()
            thread.join()

    # -- what web's Envoy counts

    def stat(self, name: str) -> int:
        """Of the cluster of orders' HTTP port."""
        return self.stats().get(f"cluster.{CLUSTER}.{name}", 0)

    def stats(self) -> dict[str, int]:
        lines = self.web.admin("/stats?filter=orders").splitlines()
        pairs = (line.rpartition(": ") for line in lines)
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    def left_out(self) -> set[str]:
        """Names, or addresses, of the instances that are ejected."""
        names = {app.address: app.name for app in self.apps}
        found = set()
        for line in self.web.admin("/clusters").splitlines():
            parts = line.split("::")
            if parts[0] == CLUSTER and parts[2:3] == ["health_flags"] and "failed_outlier_check" in parts[3]:
                address = parts[1].rpartition(":")[0]
                found.add(names.get(address, address))
        return found


@contextmanager
def farm(web: FedEnvoy, own_address: Callable[[], str], count: int) -> Iterator[Farm]:
    authority = Authority.create()
    with ExitStack() as stack:
        apps = [App(f"i{number}", own_address()) for number in range(1, count + 1)]
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostmesh-")))
        config = directory / "instances.json"
        config.write_text(json.dumps(_instances(apps, authority.issue(uri=identity("orders")))))
        config.chmod(0o600)  # it holds a private key
        log = stack.enter_context((directory / "log").open("wb"))
        process = subprocess.Popen(
            [str(envoy_path()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait)
        stack.callback(process.send_signal, signal.SIGKILL)
        one = Farm(web, own_address(), apps, own_address(), authority)
        stack.callback(one.close)
        wait_until("the instances listen", lambda: process.poll() is not None or _listens(apps[-1]))
        assert process.poll() is None, (directory / "log").read_text()
        yield one


def _listens(app: App) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((app.address, TCP), 1):
        return True
    return False

"""Envoys for tests of the process: our bootstrap with a static listener instead of ADS, or an ADS without content."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.runtime.v3 import rtds_pb2

from dataplane.compile.resources import RUNTIME
from dataplane.envoy.bootstrap import BootstrapInput, bootstrap, render
from dataplane.envoy.lifecycle import DrainPlan
from dataplane.envoy.process import EnvoyProcess, EnvoySettings, Event
from tests.support.envoy import envoy_path
from trio_grpc import Context, Listener, Send, bidi_stream, serve

QUICK = DrainPlan(settle=0, bound=0, terminate=10)
_TYPES = "type.googleapis.com/envoy.extensions.filters"


def given(directory: Path) -> BootstrapInput:
    return BootstrapInput("sidecar/test", "test", f"{directory}/ads.sock", f"{directory}/admin.sock", 1000)


def static_bootstrap(directory: Path, port: int, upstream: int = 1, *, tcp: bool = False) -> bytes:
    """Listens on 127.0.0.1:`port`: `/` is answered by Envoy, `/up` by 127.0.0.1:`upstream`; with `tcp` all by that."""
    values = bootstrap(given(directory))
    del values["dynamic_resources"], values["layered_runtime"]  # nobody serves ADS here
    manager: dict[str, Any] = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inbound",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/up"}, "route": {"cluster": "app"}},
                        {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
                    ],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}],
    }
    if tcp:
        proxy = f"{_TYPES}.network.tcp_proxy.v3.TcpProxy"
        manager = {"@type": proxy, "stat_prefix": "inbound", "cluster": "app"}
    values["static_resources"]["listeners"] = [
        {
            "name": "inbound",
            "address": _address(port),
            "filter_chains": [{"filters": [{"name": "only", "typed_config": manager}]}],
        }
    ]
    app = {"endpoint": {"address": _address(upstream)}}
    values["static_resources"]["clusters"].append(
        {
            "name": "app",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [app]}]},
        }
    )
    return render(values)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def settings(directory: Path, rendered: bytes) -> EnvoySettings:
    return EnvoySettings(str(envoy_path()), directory, rendered, f"{directory}/admin.sock")


@asynccontextmanager
async def running(process: EnvoyProcess) -> AsyncIterator[bool]:
    """Runs `process` for the body, which is told whether it was adopted, and stops it at the end."""
    async with trio.open_nursery() as nursery:
        adopted = await nursery.start(process.run)
        try:
            yield adopted
        finally:
            with trio.CancelScope(shield=True):
                await process.stop(QUICK)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def empty_ads(directory: Path) -> AsyncIterator[list[str]]:
    """An ADS that answers each first request with nothing at all; yields the types it was asked for.

    Only the runtime has to be there: Envoy goes no further before it.
    """
    asked: list[str] = []

    async def handle(
        requests: trio.MemoryReceiveChannel[discovery_pb2.DeltaDiscoveryRequest],
        send: Send[discovery_pb2.DeltaDiscoveryResponse],
        context: Context,
    ) -> None:
        async for request in requests:
            if not request.response_nonce:
                asked.append(request.type_url.rpartition(".")[2])
                response = discovery_pb2.DeltaDiscoveryResponse(type_url=request.type_url, nonce=str(len(asked)))
                for name in request.resource_names_subscribe if request.type_url == RUNTIME else ():
                    response.resources.add(name=name, version="1").resource.Pack(rtds_pb2.Runtime(name=name))
                await send(response)

    path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    method = bidi_stream(
        handle,
        discovery_pb2.DeltaDiscoveryRequest.FromString,
        discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
    )
    errors: list[Exception] = []
    listener = Listener(f"unix:{directory}/ads.sock")
    async with serve({path: method}, [listener], on_error=lambda _, error: errors.append(error)):
        yield asked
    assert errors == []


class Events:
    """Collects a process's events, and lets a test await the next of a kind."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._news = trio.Event()

    def __call__(self, event: Event) -> None:
        self.all.append(event)
        news, self._news = self._news, trio.Event()
        news.set()

    async def wait_for(self, kind: type[Event], count: int = 1) -> Event:
        while True:
            found = [event for event in self.all if isinstance(event, kind)]
            if len(found) >= count:
                return found[count - 1]
            await self._news.wait()

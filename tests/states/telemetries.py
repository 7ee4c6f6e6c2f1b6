"""States of what is logged, counted and traced."""

from __future__ import annotations

from tests.states.build import (
    State,
    instance,
    port,
    service,
    state,
    telemetry,
)
from tests.states.shop import SHOP

TELEMETRY_STATES: tuple[State, ...] = (
    state(
        "telemetry",
        "what the service says goes before its namespace, that before the mesh; each side by the first that matches",
        *SHOP,
        telemetry("mesh.mesh-system", {"accessLogging": [{}]}),
        telemetry("namespace", {"accessLogging": [{"disabled": True}]}),
        telemetry(
            "slow",
            {
                "accessLogging": [
                    {"match": {"mode": "SERVER"}, "filter": {"minStatusCode": 400, "minDuration": "1s500ms"}},
                    {"match": {"mode": "CLIENT_AND_SERVER"}, "randomSamplingPercentage": 25},
                ]
            },
            ["orders"],
        ),
        telemetry("of-another", {"accessLogging": []}, ["web"]),
    ),
    state(
        "telemetry-of-the-mesh",
        "what nobody narrower says; a section that is there and has nothing for a side leaves that side as it is",
        *SHOP,
        telemetry("mesh.mesh-system", {"accessLogging": [{"match": {"mode": "CLIENT"}, "filter": {}}]}),
        telemetry("elsewhere.back", {"accessLogging": [{"disabled": True}]}),
        telemetry("says-nothing", {}),
    ),
    state(
        "telemetry-traces",
        "spans go to a service that nobody depends on; who is traced is in the routes; one side counts nothing",
        *SHOP,
        service("otel", port("otlp", 4317, "grpc")),
        instance("otel", "c1", "10.0.0.9", otlp=4317),
        telemetry(
            "traces",
            {
                "metrics": [{"match": {"mode": "CLIENT"}, "disabled": True}],
                "tracing": {
                    "provider": {"backendRef": {"name": "otel", "port": 4317}},
                    "randomSamplingPercentage": 12.5,
                    "customTags": [
                        {"name": "shop.region", "literal": "north"},
                        {"name": "shop.tenant", "requestHeader": "x-tenant"},
                    ],
                },
            },
        ),
    ),
    state(
        "telemetry-http",
        "a collector by its address, that takes HTTP; the mesh says so, and the namespace otherwise of its logs alone",
        *SHOP,
        telemetry(
            "mesh.mesh-system",
            {"tracing": {"provider": {"protocol": "http", "address": "otel.example:4318"}}, "metrics": []},
        ),
        telemetry("namespace", {"accessLogging": []}),
    ),
    state(
        "telemetry-unusable",
        "a collector that is not there is a problem; one that contradicts itself is put aside; narrower says nothing",
        *SHOP,
        telemetry("narrow", {"tracing": {"provider": {"backendRef": {"name": "gone", "port": 1}}}}, ["orders"]),
        telemetry("both", {"tracing": {"provider": {"backendRef": {"name": "otel", "port": 1}, "address": "a:1"}}}),
        telemetry("off.mesh-system", {"tracing": {"disabled": True, "provider": {"address": "127.0.0.1:4317"}}}),
    ),
)

"""States that say the fields of routes and of external services which no other state has a reason to say."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace

from dataplane.compile.workload import KeyPair
from schemas.objects.common import CertificateFiles
from tests.states.build import (
    ROOT_DER,
    WEB,
    State,
    bundle,
    federates,
    identity,
    instance,
    need,
    need_external,
    port,
    service,
    state,
    telemetry,
    workload,
)
from tests.states.routes import written

_PEM = json.dumps(ssl.DER_cert_to_PEM_cert(ROOT_DER))
_TRUST = bundle(1, ROOT_DER)
_PORTS = (port("http", 80), port("grpc", 9000, "grpc"), port("raw", 7, "tcp"), port("more", 8, "tcp"))
_PARTNER = identity("partner", "partner.test")
_SHOWN = CertificateFiles(certificate="shown.crt", key="shown.key")

_ROUTES = written("""
kind: ExternalService
metadata: {name: outside}
spec:
  ports: [{name: http, port: 80, protocol: http}, {name: grpc, port: 9000, protocol: grpc}]
  endpoints: [{address: 192.0.2.7}]
  tls: {mode: DISABLE}
---
kind: HTTPRoute
metadata: {name: requests}
spec:
  parentRefs: [{kind: Service, name: orders, port: 80}]
  rules:
  - matches: [{path: {value: /backend}}]
    backendRefs:
    - {name: orders, port: 80}
    - name: stock
      namespace: back
      port: 80
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {add: [{name: x-add, value: a}], remove: [x-gone]}
      - type: ResponseHeaderModifier
        responseHeaderModifier: {set: [{name: x-set, value: b}], add: [{name: x-add, value: c}]}
  - matches: [{path: {value: /mirror}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {kind: ExternalService, name: outside, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: orders, port: 80, matchLabels: {version: v2}}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: stock, namespace: back, port: 80}}}
    - type: Fault
      fault: {abort: {httpStatus: 500}, headers: [{type: RegularExpression, name: x-fault, value: a+}]}
    backendRefs: [{name: orders, port: 80}]
  - matches: [{path: {value: /redirect}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: http, statusCode: 307}}]
  - retry:
      triggers: [5xx, retriable-4xx, connect-failure, refused-stream, reset-before-request, cancelled,
                 deadline-exceeded, internal, resource-exhausted, unavailable]
    backendRefs: [{name: orders, port: 80}]
---
kind: GRPCRoute
metadata: {name: calls, namespace: back}
spec:
  parentRefs: [{kind: Service, name: orders, namespace: shop, port: 9000}]
  rules: [{backendRefs: [{name: stock, port: 9000}]}]
---
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs:
  - {kind: Service, name: orders, namespace: shop, port: 9000}
  - {kind: ExternalService, name: outside}
  rules:
  - matches: [{method: {service: backend}, headers: [{type: RegularExpression, name: x-one, value: '[ab]'}]}]
    backendRefs:
    - {name: orders, port: 9000}
    - {kind: ExternalService, name: outside, port: 9000}
    - name: stock
      namespace: back
      port: 9000
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {set: [{name: x-set, value: a}], remove: [x-gone]}
      - type: ResponseHeaderModifier
        responseHeaderModifier: {set: [{name: x-set, value: b}], add: [{name: x-add, value: c}]}
  - matches: [{method: {service: mirror}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {add: [{name: x-add, value: a}], remove: [x-gone]}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-add, value: b}]}}
    - type: RequestMirror
      requestMirror: {backendRef: {kind: ExternalService, name: outside, port: 9000}, percent: 25}
    - type: RequestMirror
      requestMirror:
        backendRef: {name: orders, port: 9000, matchLabels: {version: v2}}
        fraction: {numerator: 3, denominator: 7}
    - {type: RequestMirror, requestMirror: {backendRef: {name: stock, namespace: back, port: 9000}}}
    - type: Fault
      fault: {abort: {httpStatus: 429}, headers: [{type: Exact, name: x-fault, value: a}]}
    backendRefs: [{name: orders, port: 9000}]
  - retry:
      codes: [503]
      triggers: [5xx, gateway-error, reset, reset-before-request, connect-failure, refused-stream, retriable-4xx,
                 deadline-exceeded, resource-exhausted]
    sessionPersistence:
      {type: Cookie, sessionName: kept, absoluteTimeout: 30m, cookieConfig: {lifetimeType: Permanent}}
    backendRefs: [{name: orders, port: 9000}]
---
kind: TCPRoute
metadata: {name: connections}
spec:
  parentRefs: [{kind: Service, name: orders, namespace: shop, sectionName: raw}]
  rules: [{backendRefs: [{name: stock, namespace: back, port: 7}]}]
""")

_OUTSIDE = written(f"""
kind: ExternalService
metadata: {{name: ledger}}
spec:
  endpoints: [{{address: 192.0.2.9}}]
  ports:
  - {{name: http, port: 80, protocol: http}}
  - {{name: h2, port: 81, protocol: http2, tls: {{mode: SIMPLE, sni: h2.test, caCertificates: {_PEM}}}}}
  - {{name: names, port: 82, protocol: http, tls: {{mode: SIMPLE, sni: one.test, subjectAltNames: [two.test]}}}}
  - {{name: partner, port: 83, protocol: http, identityHeader: false, tls: {{mode: MESH, spiffeId: "{_PARTNER}"}}}}
  tls: {{mode: MUTUAL, sni: ledger.test, clientCertificate: {{certificate: shown.crt, key: shown.key}}}}
---
kind: ExternalService
metadata: {{name: spans, namespace: back}}
spec:
  hosts: [spans.example]
  ports: [{{name: otlp, port: 4318, protocol: http}}]
  tls: {{mode: SIMPLE}}
""")

FIELD_STATES: tuple[State, ...] = (
    state(
        "routes-more-fields",
        "to and from other namespaces and the outside; changes by a backend; every word that is a reason to try again",
        service("web", needs=[need("orders"), need("orders", port=7, bind=9101), need("orders", port=8, bind=9102),
                              need_external("outside")]),
        service("orders", *_PORTS),
        service("stock.back", *_PORTS),
        instance("orders", "o1", "10.0.0.1", labels={"version": "v2"}, http=80, grpc=9000, raw=7, more=8),
        *_ROUTES,
        _TRUST,
        of=workload(WEB),
    ),
    state(
        "egress-more-fields",
        "TLS of the service and, in its place, of its ports; spans go outside, to a path; one side counts nothing",
        service("web", needs=[need_external("ledger")]),
        *_OUTSIDE,
        federates("partner", "partner.test"),
        bundle(1, ROOT_DER, trust_domain="partner.test"),
        telemetry(
            "spans.mesh-system",
            {
                "metrics": [{"match": {"mode": "SERVER"}, "disabled": True}],
                "tracing": {
                    "provider": {
                        "protocol": "http",
                        "path": "/otlp",
                        "backendRef": {"kind": "ExternalService", "name": "spans", "namespace": "back", "port": 4318},
                    }
                },
            },
        ),
        _TRUST,
        of=replace(
            workload(WEB, system_ca="/etc/ssl/certs/ca-certificates.crt"),
            certificates={_SHOWN: KeyPair(b"the chain to show", b"its key", ("web.example",))},
        ),
    ),
)  # fmt: skip

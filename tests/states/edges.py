"""States at the edges of the mesh: gateways, and what is outside of it."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace

from dataplane.compile.workload import GatewayHost, KeyPair
from schemas.objects.common import CertificateFiles
from tests.states.build import ROOT_DER, WEB, Item, State, bundle, need_external, port, service, state, workload
from tests.states.routes import http_route, written

_PEM = json.dumps(ssl.DER_cert_to_PEM_cert(ROOT_DER))
_OF = workload(WEB, system_ca="/etc/ssl/certs/ca-certificates.crt")
TRUST = bundle(1, ROOT_DER)


def mesh(mode: str) -> Item:
    """With that `outboundTrafficPolicy`."""
    return written(
        "kind: Mesh\nmetadata: {name: mesh, namespace: mesh-system}\n"
        f"spec: {{trustDomain: mesh.test, outboundTrafficPolicy: {{mode: {mode}}}}}"
    )[0]


_EXTERNALS = written(f"""
kind: ExternalService
metadata: {{name: payments}}
spec:
  hosts: [api.payments.example, eu.payments.example]
  ports:
  - {{name: http, port: 80, protocol: http, targetPort: 443}}
  - {{name: https, port: 443, protocol: tcp, tls: {{mode: DISABLE}}}}
  - {{name: grpc, port: 9000, protocol: grpc, tls: {{mode: MUTUAL, sni: grpc.payments.example}}}}
  - {{name: raw, port: 7, protocol: tcp, tls: {{mode: MUTUAL, clientCertificate: {{certificate: a.crt, key: a.key}}}}}}
  tls: {{mode: SIMPLE}}
---
kind: ExternalService
metadata: {{name: database}}
spec:
  ports: [{{name: sql, port: 5432, protocol: tcp}}]
  endpoints: [{{address: 192.0.2.7}}, {{address: 192.0.2.8, ports: {{sql: 15432}}}}]
  tls: {{mode: SIMPLE, subjectAltNames: [db.test, 192.0.2.7], caCertificates: {_PEM}}}
---
kind: ExternalService
metadata: {{name: cdn}}
spec:
  hosts: [cdn.example]
  resolution: DNS_ROUND_ROBIN
  ports: [{{name: http, port: 80, protocol: http}}]
  tls: {{mode: DISABLE}}
---
kind: ExternalService
metadata: {{name: shared, namespace: mesh-system}}
spec:
  hosts: [shared.example, cdn.example]
  ports: [{{name: http, port: 80, protocol: http}}]
  tls: {{mode: SIMPLE}}
---
kind: ExternalService
metadata: {{name: foreign, namespace: elsewhere}}
spec:
  hosts: [foreign.example]
  ports: [{{name: http, port: 80, protocol: http}}]
  tls: {{mode: SIMPLE}}
""")
_GATEWAYS = written("""
kind: Gateway
metadata: {name: edge}
spec:
  service: web
  xffTrustedHops: 1
  listeners:
  - {name: http, port: 80, protocol: HTTP, tls: {httpsRedirect: true}}
  - name: shop
    hostname: shop.example
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{certificate: shop/fullchain.pem, key: shop/privkey.pem}]}
    allowedRoutes: {namespaces: {from: Names, names: [shop, back]}}
  - name: others
    hostname: "*.example"
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{certificate: all.crt, key: all.key}, {certificate: lost.crt, key: lost.key}]}
    allowedRoutes: {kinds: [{kind: HTTPRoute}]}
  - name: lost
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{certificate: lost.crt, key: lost.key}]}
---
kind: Gateway
metadata: {name: rival}
spec:
  service: web
  listeners:
  - {name: http, port: 443, protocol: HTTP}
  - {name: inside, port: 8080, protocol: HTTP}
  - name: more
    hostname: more.example
    port: 81
    protocol: HTTP
    allowedRoutes: {kinds: [{kind: GRPCRoute}], namespaces: {from: All}}
---
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{kind: Gateway, name: edge, sectionName: shop}]
  hostnames: [shop.example, www.shop.example]
  rules:
  - matches: [{path: {value: /api}}]
    backendRefs: [{name: orders, port: 80}]
  - backendRefs: [{name: orders, port: 80, weight: 9}, {name: ghost, port: 80}]
---
kind: HTTPRoute
metadata: {name: theirs, namespace: back}
spec:
  parentRefs: [{kind: Gateway, name: edge, namespace: shop}]
  rules:
  - backendRefs: [{name: stock, port: 80}]
---
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs: [{kind: Gateway, name: edge, sectionName: others}]
  rules:
  - backendRefs: [{name: orders, port: 80}]
---
kind: GRPCRoute
metadata: {name: their-calls, namespace: elsewhere}
spec:
  parentRefs: [{kind: Gateway, name: rival, namespace: shop, sectionName: more}]
  rules: [{backendRefs: [{name: stock, namespace: back, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: no-calls, namespace: elsewhere}
spec:
  parentRefs: [{kind: Gateway, name: rival, namespace: shop, sectionName: more}]
  rules: [{backendRefs: [{name: orders, namespace: shop, port: 80}]}]
""")
GATEWAY = GatewayHost("192.0.2.1", {80: 18080, 443: 18443})
CERTIFICATES = {
    CertificateFiles(certificate="shop/fullchain.pem", key="shop/privkey.pem"): KeyPair(
        b"the chain of shop", b"the key of shop", ("shop.example",)
    ),
    CertificateFiles(certificate="all.crt", key="all.key"): KeyPair(b"the chain", b"the key", ("a.other",)),
}
_NAMES = ("payments", "database", "cdn")

EDGE_STATES: tuple[State, ...] = (
    state(
        "egress",
        "outside of the mesh by name and by address, with TLS that begins here; a certificate is shown where asked for",
        service(
            "web",
            needs=[
                *map(need_external, _NAMES),
                need_external("database", bind=9101),
                need_external("payments", port=80, bind=9102),
            ],
        ),
        *_EXTERNALS,
        TRUST,
        of=_OF,
    ),
    state(
        "egress-hosts",
        "who declares nothing knows the hosts of its namespace and of mesh-system, and those of its own go first",
        service("web", needs=None),
        *_EXTERNALS,
        mesh("ALLOW_ANY"),
        TRUST,
        of=_OF,
    ),
    state(
        "egress-routes",
        "routes lead to the outside under the outside's name; connections are not divided between inside and outside",
        service("web", needs=[need_external("payments"), need_external("database")]),
        service("mirror", port("http", 80), port("sql", 5432, "tcp")),
        *_EXTERNALS,
        http_route(
            """
            - matches: [{path: {value: /old}}]
              filters: [{type: URLRewrite, urlRewrite: {hostname: old.payments.example}}]
              backendRefs: [{kind: ExternalService, name: payments, port: 80}]
            - backendRefs:
              - {kind: ExternalService, name: payments, port: 80, weight: 9}
              - {kind: ExternalService, name: cdn, port: 80}
              - {name: mirror, port: 80}
            """,
            name="payments",
            spec="parentRefs: [{kind: ExternalService, name: payments, port: 80}]",
        ),
        *written("""
            kind: TCPRoute
            metadata: {name: database}
            spec:
              parentRefs: [{kind: ExternalService, name: database}]
              rules: [{backendRefs: [{kind: ExternalService, name: database}, {name: mirror, port: 5432}]}]
            """),
        TRUST,
        of=_OF,
    ),
    state(
        "gateway",
        "from outside by host name and certificate; what contradicts, is not allowed or has no certificate is left out",
        service("web", port("http", 8080), needs=[]),
        service("orders", port("http", 80)),
        service("stock.back", port("http", 80)),
        *_GATEWAYS,
        TRUST,
        of=replace(workload(WEB), gateway=GATEWAY, certificates=CERTIFICATES),
    ),
    state(
        "gateway-not-here",
        "a host whose settings do not say so is no gateway, whatever is in etcd",
        service("web", port("http", 8080), needs=[]),
        *_GATEWAYS,
        TRUST,
        of=_OF,
    ),
    state(
        "egress-unverified",
        "a host without certification authorities has no way to servers that must be verified by them",
        service("web", needs=[need_external("payments")]),
        *_EXTERNALS,
        TRUST,
        of=workload(WEB),
    ),
)  # fmt: skip

"""States with routes: web calls orders, whose requests go to two versions of it and elsewhere."""

from __future__ import annotations

import re
import textwrap

from schemas import codec
from schemas.objects import AnyObject
from tests.states.build import (
    ROOT_DER,
    WEB,
    Item,
    State,
    bundle,
    external,
    identity,
    instance,
    need,
    port,
    service,
    state,
    workload,
)


def written(text: str) -> list[AnyObject]:
    """Objects of a YAML stream in which `apiVersion` and the namespace (shop) may be left out."""
    parts = textwrap.dedent(text).split("\n---\n")
    full = "\n---\n".join("apiVersion: mesh/v1\n" + part.strip() for part in parts)
    full = re.sub(r"metadata: \{name: ([a-z0-9-]+)\}", r"metadata: {name: \1, namespace: shop}", full)
    return [document.object for document in codec.load_yaml(full, "test")]


def http_route(
    rules: str, *, name: str = "orders", spec: str = "parentRefs: [{kind: Service, name: orders, port: 80}]"
) -> AnyObject:
    """`rules`: YAML, indented as it stands below ``rules:``."""
    body = textwrap.indent(textwrap.dedent(rules).strip(), "    ")
    (route,) = written(f"kind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n  rules:\n{body}\n")
    return route


_PORTS = (port("http", 80), port("grpc", 9000, "grpc"), port("raw", 7, "tcp"))
_CALLER = service("web", needs=[need("orders"), need("orders", port=80, bind=9101), need("orders", port=7, bind=9102)])
_SERVICES: tuple[Item, ...] = (
    _CALLER,
    service("orders", *_PORTS),
    service("orders-v2", *_PORTS),
    instance("orders", "o1", "10.0.0.1", labels={"version": "v1"}, http=80, grpc=9000, raw=7),
    instance("orders", "o2", "10.0.0.2", labels={"version": "v2", "canary": "yes"}, http=80, grpc=9000, raw=7),
    instance("orders-v2", "n1", "10.0.0.3", http=80, grpc=9000, raw=7),
    bundle(1, ROOT_DER),
)
_OF = workload(WEB)


def _state(name: str, about: str, *items: Item) -> State:
    return state(f"routes-{name}", about, *_SERVICES, *items, of=_OF)


_TO = "backendRefs: [{name: orders, port: 80}]"

ROUTE_STATES: tuple[State, ...] = (
    _state(
        "matches",
        "every kind of match, in the order of precedence",
        http_route(
            f"""
            - name: everything
              {_TO}
            - matches:
              - path: {{value: /a}}
              - path: {{value: /a/long/}}
              - path: {{type: Exact, value: /a/b}}
              - path: {{type: RegularExpression, value: '/a/[0-9]+(?:\\.json)?'}}
              - method: GET
              - headers: [{{name: X-One, value: 'a b'}}]
              - headers:
                - {{name: x-one, value: a}}
                - {{name: x-two, type: RegularExpression, value: '(?i)b+'}}
              - queryParams: [{{name: q, value: '1'}}]
              - queryParams: [{{name: q, type: RegularExpression, value: '[0-9]+'}}]
              {_TO}
            """
        ),
    ),
    _state(
        "hosts",
        "the most specific host name goes first, across routes",
        http_route(
            f"- {_TO}",
            name="by-host",
            spec="""parentRefs: [{kind: Service, name: orders, port: 80}]
  hostnames: ['*.example.com', api.example.com, orders.shop]""",
        ),
        http_route(f"- matches: [{{path: {{type: Exact, value: /x}}}}]\n  {_TO}", name="any-host"),
    ),
    _state(
        "weights",
        "weights, one of zero, a backend with filters of its own",
        http_route(
            """
            - matches: [{path: {value: /split}}]
              backendRefs:
              - {name: orders, port: 80, weight: 90}
              - name: orders-v2
                port: 80
                weight: 10
                filters:
                - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-version, value: v2}]}}
                - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}}
                - {type: URLRewrite, urlRewrite: {hostname: v2.example.com}}
              - {name: orders-v2, port: 80, weight: 0}
            - matches: [{path: {value: /one}}]
              backendRefs: [{name: orders, port: 80, weight: 0}, {name: orders-v2, port: 80}]
            - matches: [{path: {value: /none}}]
              backendRefs: [{name: orders, port: 80, weight: 0}]
            """
        ),
    ),
    _state(
        "subsets",
        "instances by their labels; one subset that has none",
        http_route(
            """
            - backendRefs:
              - {name: orders, port: 80, matchLabels: {version: v1}, weight: 9}
              - {name: orders, port: 80, matchLabels: {version: v2, canary: 'yes'}}
              - {name: orders, port: 80, matchLabels: {version: v3}}
            """
        ),
        *written(
            """
            kind: GRPCRoute
            metadata: {name: calls}
            spec:
              parentRefs: [{kind: Service, name: orders, port: 9000}]
              rules: [{backendRefs: [{name: orders, port: 9000, matchLabels: {version: v1}}]}]
            ---
            kind: TCPRoute
            metadata: {name: connections}
            spec:
              parentRefs: [{kind: Service, name: orders, port: 7}]
              rules: [{backendRefs: [{name: orders, port: 7, matchLabels: {version: v2}}]}]
            """
        ),
    ),
    _state(
        "grpc-more",
        "fields of a GRPCRoute that an HTTPRoute has too: host names, names, filters of a backend, sessions, faults",
        *written(
            """
            kind: GRPCRoute
            metadata: {name: calls}
            spec:
              parentRefs: [{kind: Service, name: orders, sectionName: grpc}]
              hostnames: [one.test, '*.two.test']
              rules:
              - name: by-backend
                matches: [{method: {service: shop.Orders}}]
                filters:
                - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: a}], remove: [x]}}
                backendRefs:
                - {name: orders, port: 9000}
                - name: orders-v2
                  port: 9000
                  filters:
                  - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-add, value: b}]}}
                  - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-c]}}
                  - {type: URLRewrite, urlRewrite: {hostname: two.test}}
              - name: kept
                matches: [{method: {service: shop.Carts}}]
                sessionPersistence: {sessionName: x-where, type: Header}
                retry: {triggers: [cancelled, internal], attempts: 4, backoff: 5ms, maxBackoff: 1s}
                timeouts: {request: 9s, backendRequest: 2s}
                backendRefs: [{name: orders, port: 9000}]
              - name: to-nobody
                matches: [{method: {method: None}}]
                backendRefs: [{name: orders, port: 9000, weight: 0}]
              - filters:
                - type: Fault
                  fault:
                    delay: {fixedDelay: 1s, percentage: 50}
                    abort: {grpcStatus: 8, percentage: 10}
                    headers: [{type: RegularExpression, name: x-fault, value: a+b}]
                backendRefs: [{name: orders, port: 9000}]
            """
        ),
    ),
    _state(
        "tcp-nowhere",
        "all weights are 0: connections are closed",
        *written(
            """
            kind: TCPRoute
            metadata: {name: connections}
            spec:
              parentRefs: [{kind: Service, name: orders, port: 7}]
              rules: [{name: all, backendRefs: [{name: orders, port: 7, weight: 0}]}]
            """
        ),
    ),
    _state(
        "headers",
        "changes of headers; a percent sign is one",
        http_route(
            f"""
            - filters:
              - type: RequestHeaderModifier
                requestHeaderModifier:
                  set: [{{name: X-Set, value: '100%'}}]
                  add: [{{name: x-add, value: ''}}]
                  remove: [x-gone]
              - type: ResponseHeaderModifier
                responseHeaderModifier:
                  {{set: [{{name: x-set, value: a}}], add: [{{name: x-add, value: b}}], remove: [x-gone]}}
              {_TO}
            """
        ),
    ),
    _state(
        "rewrites",
        "host, whole path, prefix; prefixes and replacements that end in a slash or are empty",
        http_route(
            "\n".join(
                f"- matches: [{{path: {{value: {prefix}}}}}]\n"
                f"  filters: [{{type: URLRewrite, urlRewrite: {{hostname: in.example.com, path: {path}}}}}]\n  {_TO}"
                for prefix, path in (
                    ("/full", "{type: ReplaceFullPath, replaceFullPath: /one}"),
                    ("/a", "{type: ReplacePrefixMatch, replacePrefixMatch: /b}"),
                    ("/c/", "{type: ReplacePrefixMatch, replacePrefixMatch: /d/}"),
                    ("/e.f", "{type: ReplacePrefixMatch, replacePrefixMatch: /}"),
                    ("/g", "{type: ReplacePrefixMatch, replacePrefixMatch: ''}"),
                    ("/", "{type: ReplacePrefixMatch, replacePrefixMatch: /h}"),
                )
            )
        ),
    ),
    _state(
        "redirects",
        "each part of a redirect",
        http_route(
            """
            - matches: [{path: {value: /scheme}}]
              filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
            - matches: [{path: {value: /host}}]
              filters:
              - {type: RequestRedirect, requestRedirect: {hostname: other.example.com, port: 8443, statusCode: 308}}
            - matches: [{path: {value: /path}}]
              filters:
              - type: RequestRedirect
                requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /there}}
            - matches: [{path: {value: /prefix}}]
              filters:
              - type: RequestRedirect
                requestRedirect: {statusCode: 303, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
            """
        ),
    ),
    _state(
        "mirrors",
        "all, a percentage, a fraction; one that leads nowhere is left out",
        http_route(
            f"""
            - filters:
              - {{type: RequestMirror, requestMirror: {{backendRef: {{name: orders-v2, port: 80}}}}}}
              - {{type: RequestMirror, requestMirror: {{backendRef: {{name: orders-v2, port: 80}}, percent: 10}}}}
              - type: RequestMirror
                requestMirror: {{backendRef: {{name: orders-v2, port: 80}}, fraction: {{numerator: 1, denominator: 3}}}}
              - {{type: RequestMirror, requestMirror: {{backendRef: {{name: ghost, port: 80}}}}}}
              {_TO}
            """
        ),
    ),
    _state(
        "faults",
        "delay and abort, by percentage and header",
        http_route(
            f"""
            - matches: [{{path: {{value: /both}}}}]
              filters:
              - type: Fault
                fault:
                  delay: {{fixedDelay: 250ms, percentage: 12.5}}
                  abort: {{httpStatus: 503, percentage: 0.01}}
                  headers: [{{name: X-Fault, value: 'on'}}]
              {_TO}
            - matches: [{{path: {{value: /grpc}}}}]
              filters: [{{type: Fault, fault: {{abort: {{grpcStatus: 14}}}}}}]
              {_TO}
            """
        ),
    ),
    _state(
        "times-and-retries",
        "timeouts, retries",
        http_route(
            f"""
            - timeouts: {{request: 10s, backendRequest: 2s}}
              retry: {{codes: [503, 500], attempts: 3, backoff: 100ms}}
              {_TO}
            - matches: [{{path: {{value: /triggers}}}}]
              timeouts: {{request: 0s}}
              retry: {{triggers: [gateway-error, reset], attempts: 0, backoff: 10ms, maxBackoff: 1m}}
              {_TO}
            """
        ),
    ),
    _state(
        "cors",
        "origins of each form; the preflights of rules that ask for a method, or for headers",
        http_route(
            f"""
            - matches: [{{method: POST, path: {{value: /a}}}}]
              filters:
              - type: CORS
                cors:
                  allowOrigins: ['https://shop.example.com', 'https://*.example.com:8443', 'http://*']
                  allowCredentials: true
                  allowMethods: [GET, POST]
                  allowHeaders: [x-one]
                  exposeHeaders: [x-two]
                  maxAge: 60
              {_TO}
            - matches: [{{headers: [{{name: x-one, value: a}}]}}]
              filters: [{{type: CORS, cors: {{allowOrigins: ['*'], allowMethods: ['*']}}}}]
              {_TO}
            - filters: [{{type: CORS, cors: {{allowOrigins: ['*'], allowMethods: ['*']}}}}]
              {_TO}
            """
        ),
    ),
    _state(
        "sessions",
        "by cookie, for the browser's time or a given one; by header",
        http_route(
            f"""
            - matches: [{{path: {{value: /a}}}}]
              sessionPersistence: {{}}
              {_TO}
            - matches: [{{path: {{value: /b}}}}]
              sessionPersistence:
                {{sessionName: s, absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}
              {_TO}
            - matches: [{{path: {{value: /c}}}}]
              sessionPersistence: {{sessionName: x-session, type: Header}}
              {_TO}
            - matches: [{{path: {{value: /d}}}}]
              sessionPersistence: {{sessionName: s}}
              backendRefs: [{{name: orders, port: 80}}, {{name: orders-v2, port: 80}}]
            """
        ),
    ),
    _state(
        "grpc",
        "services, methods, expressions, headers; a GRPCRoute goes before an HTTPRoute of the same port",
        *written(
            """
            kind: GRPCRoute
            metadata: {name: calls}
            spec:
              parentRefs: [{kind: Service, name: orders, sectionName: grpc}]
              rules:
              - matches:
                - method: {service: shop.Orders, method: Get}
                - method: {service: shop.Orders}
                - method: {method: Watch}
                - method: {type: RegularExpression, service: 'shop\\..*', method: 'Get|List'}
                - headers: [{name: x-one, value: a}]
                filters:
                - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: a}]}}
                - {type: RequestMirror, requestMirror: {backendRef: {name: orders-v2, port: 9000}}}
                backendRefs:
                - {name: orders, port: 9000, weight: 3}
                - {name: orders-v2, port: 9000}
                retry: {triggers: [unavailable]}
                timeouts: {request: 5s}
            ---
            kind: HTTPRoute
            metadata: {name: outranked}
            spec:
              parentRefs: [{kind: Service, name: orders, port: 9000}]
              rules: [{backendRefs: [{name: orders-v2, port: 9000}]}]
            """
        ),
    ),
    _state(
        "tcp",
        "the connections to a TCP port by weight; of two routes the first by name counts",
        *written(
            """
            kind: TCPRoute
            metadata: {name: connections}
            spec:
              parentRefs: [{kind: Service, name: orders}]
              rules: [{backendRefs: [{name: orders, port: 7, weight: 3}, {name: orders-v2, port: 7}]}]
            ---
            kind: TCPRoute
            metadata: {name: second}
            spec:
              parentRefs: [{kind: Service, name: orders, port: 7}]
              rules: [{backendRefs: [{name: orders-v2, port: 7}]}]
            """
        ),
    ),
    _state(
        "missing",
        "what leads nowhere takes its share of the requests, and answers 503 with the reason",
        http_route(
            """
            - backendRefs:
              - {name: orders, port: 80, weight: 9}
              - {name: ghost, port: 80}
              - {name: orders, port: 81}
              - {name: orders}
              - {name: orders, port: 7}
            """
        ),
        http_route(f"- {_TO}", name="nowhere", spec="parentRefs: [{kind: Service, name: orders, port: 81}]"),
        *written(
            """
            kind: TCPRoute
            metadata: {name: connections}
            spec:
              parentRefs: [{kind: Service, name: orders}]
              rules: [{backendRefs: [{name: ghost, port: 7}]}]
            """
        ),
    ),
    _state(
        "consumer",
        "a route of the caller's namespace goes before those of the service's; one of a third namespace is not ours",
        service("ledger.bank", port("http", 80)),
        service("web", needs=[need("ledger.bank")]),
        *written(
            """
            kind: HTTPRoute
            metadata: {name: ledger}
            spec:
              parentRefs: [{kind: Service, name: ledger, namespace: bank}]
              rules: [{backendRefs: [{name: orders-v2, port: 80}]}]
            """
        ),
        *written(
            """
            kind: HTTPRoute
            metadata: {name: producer, namespace: bank}
            spec:
              parentRefs: [{kind: Service, name: ledger}]
              rules: [{backendRefs: [{name: ledger, port: 80}]}]
            ---
            kind: HTTPRoute
            metadata: {name: stranger, namespace: back}
            spec:
              parentRefs: [{kind: Service, name: ledger, namespace: bank}]
              rules: [{backendRefs: [{name: elsewhere, port: 80}]}]
            """
        ),
    ),
    _state(
        "external",
        "part of the requests to a service leave the mesh",
        external("partner", identity("partner", "other.test"), at=["10.9.0.1"]),
        http_route("- backendRefs: [{name: orders, port: 80}, {kind: ExternalService, name: partner, weight: 2}]"),
    ),
    _state(
        "contradictory",
        "what contradicts itself is not believed: the service's own way holds",
        http_route(f"- matches: [{{path: {{type: RegularExpression, value: '(a'}}}}]\n  {_TO}"),
    ),
)

"""Routes that contradict themselves: refused by replicas, each with the path of the field; not believed by sidecars."""

from __future__ import annotations

import pytest

from dataplane.snapshot.reading import read
from routing.check import route_faults
from schemas import codec
from schemas.checking import json_path
from schemas.errors import Corrupt
from schemas.objects import AnyObject, AnyRoute
from tests.states.routes import http_route, written

_TO = "backendRefs: [{name: orders}]"
_RULE = "$.spec.rules[0]"


def _grpc(rule: str) -> AnyObject:
    text = (
        f"kind: GRPCRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{kind: Service, name: o}}], rules: [{rule}]}}"
    )
    return written(text)[0]


def _filters(text: str) -> AnyObject:
    return http_route(f"- filters: [{text}]\n  {_TO}")


def _of_rule(text: str) -> AnyObject:
    return http_route(f"- {text}\n  {_TO}")


def _match(text: str) -> AnyObject:
    return _of_rule(f"matches: [{text}]")


def _modifier(text: str) -> AnyObject:
    return _filters(f"{{type: RequestHeaderModifier, requestHeaderModifier: {text}}}")


def _rewrite(text: str) -> AnyObject:
    return _filters(f"{{type: URLRewrite, urlRewrite: {text}}}")


def _cors(text: str) -> AnyObject:
    return _filters(f"{{type: CORS, cors: {text}}}")


def _fault(text: str) -> AnyObject:
    return _filters(f"{{type: Fault, fault: {text}}}")


def _mirror(text: str) -> AnyObject:
    return _filters(f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: o}}, {text}}}}}")


FAULTY: tuple[tuple[AnyObject, str], ...] = (
    (_match("{path: {value: a}}"), f"{_RULE}.matches[0].path.value"),
    (_match("{path: {value: /a//b}}"), f"{_RULE}.matches[0].path.value"),
    (_match("{path: {value: /a/..}}"), f"{_RULE}.matches[0].path.value"),
    (_match("{path: {type: Exact, value: '/a?b'}}"), f"{_RULE}.matches[0].path.value"),
    (_match("{path: {type: RegularExpression, value: '(?=a)'}}"), f"{_RULE}.matches[0].path.value"),
    (_match("{headers: [{name: a, value: b}, {name: A, value: c}]}"), f"{_RULE}.matches[0].headers[1].name"),
    (_match("{headers: [{name: a, type: RegularExpression, value: '('}]}"), f"{_RULE}.matches[0].headers[0].value"),
    (_match("{queryParams: [{name: a, value: b}, {name: a, value: c}]}"), f"{_RULE}.matches[0].queryParams[1].name"),
    (
        _match("{queryParams: [{name: a, type: RegularExpression, value: '*'}]}"),
        f"{_RULE}.matches[0].queryParams[0].value",
    ),
    (_filters("{type: URLRewrite}"), f"{_RULE}.filters[0].urlRewrite"),
    (
        _filters("{type: CORS, cors: {allowOrigins: ['*']}, urlRewrite: {hostname: a}}"),
        f"{_RULE}.filters[0].urlRewrite",
    ),
    (
        _filters("{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}"),
        f"{_RULE}.filters[1].type",
    ),
    (_modifier("{}"), f"{_RULE}.filters[0].requestHeaderModifier"),
    (
        _modifier("{set: [{name: a, value: b}], remove: [A]}"),
        f"{_RULE}.filters[0].requestHeaderModifier.remove[0]",
    ),
    (_modifier("{set: [{name: Host, value: b}]}"), f"{_RULE}.filters[0].requestHeaderModifier.set[0].name"),
    (
        _modifier("{set: [{name: X-Mesh-Unserved, value: reset}]}"),
        f"{_RULE}.filters[0].requestHeaderModifier.set[0].name",
    ),
    (
        _modifier("{add: [{name: X-Forwarded-Client-Cert, value: b}]}"),
        f"{_RULE}.filters[0].requestHeaderModifier.add[0].name",
    ),
    (_rewrite("{}"), f"{_RULE}.filters[0].urlRewrite"),
    (_rewrite("{path: {type: ReplaceFullPath}}"), f"{_RULE}.filters[0].urlRewrite.path.replaceFullPath"),
    (
        _rewrite("{path: {type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /b}}"),
        f"{_RULE}.filters[0].urlRewrite.path.replacePrefixMatch",
    ),
    (
        _rewrite("{path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}"),
        f"{_RULE}.filters[0].urlRewrite.path.replaceFullPath",
    ),
    (
        http_route(
            f"- matches: [{{path: {{type: Exact, value: /a}}}}]\n  filters: [{{type: URLRewrite, urlRewrite: "
            f"{{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /b}}}}}}]\n  {_TO}"
        ),
        f"{_RULE}.filters[0].urlRewrite.path",
    ),
    (_filters("{type: RequestRedirect, requestRedirect: {port: 1}}"), f"{_RULE}.backendRefs"),
    (
        http_route(
            "- filters: [{type: RequestRedirect, requestRedirect: {port: 1}}, "
            "{type: URLRewrite, urlRewrite: {hostname: a}}]"
        ),
        f"{_RULE}.filters[1].type",
    ),
    (http_route("- name: a"), f"{_RULE}.backendRefs"),
    (http_route(f"- name: a\n  {_TO}\n- name: a\n  {_TO}"), "$.spec.rules[1].name"),
    (
        http_route(f"- {_TO}", spec="parentRefs: [{kind: Service, name: a}, {kind: Service, name: a}]"),
        "$.spec.parentRefs[1]",
    ),
    (
        http_route("- backendRefs: [{name: a, filters: [{type: URLRewrite, urlRewrite: {path: "
                   "{type: ReplaceFullPath, replaceFullPath: /a}}}]}]"),
        f"{_RULE}.backendRefs[0].filters[0].urlRewrite.path",
    ),
    (_mirror("percent: 5, fraction: {numerator: 1}"), f"{_RULE}.filters[0].requestMirror.percent"),
    (_mirror("fraction: {numerator: 2, denominator: 1}"), f"{_RULE}.filters[0].requestMirror.fraction.numerator"),
    (_cors("{allowOrigins: ['*'], allowMethods: ['*', GET]}"), f"{_RULE}.filters[0].cors.allowMethods"),
    (_cors("{allowOrigins: ['*'], allowCredentials: true}"), f"{_RULE}.filters[0].cors.allowOrigins"),
    (
        _cors("{allowOrigins: ['http://a'], allowCredentials: true, allowHeaders: ['*']}"),
        f"{_RULE}.filters[0].cors.allowHeaders",
    ),
    (_fault("{}"), f"{_RULE}.filters[0].fault"),
    (_fault("{delay: {fixedDelay: 0s}}"), f"{_RULE}.filters[0].fault.delay.fixedDelay"),
    (_fault("{abort: {}}"), f"{_RULE}.filters[0].fault.abort"),
    (_fault("{abort: {httpStatus: 500, grpcStatus: 2}}"), f"{_RULE}.filters[0].fault.abort"),
    (
        _fault("{abort: {httpStatus: 500}, headers: [{name: a, type: RegularExpression, value: '('}]}"),
        f"{_RULE}.filters[0].fault.headers[0].value",
    ),
    (_of_rule("timeouts: {request: 1s, backendRequest: 2s}"), f"{_RULE}.timeouts.backendRequest"),
    (_of_rule("retry: {backoff: 0s}"), f"{_RULE}.retry.backoff"),
    (_of_rule("retry: {backoff: 1s, maxBackoff: 100ms}"), f"{_RULE}.retry.maxBackoff"),
    (
        _of_rule("sessionPersistence: {type: Header, absoluteTimeout: 1h}"),
        f"{_RULE}.sessionPersistence.absoluteTimeout",
    ),
    (_of_rule("sessionPersistence: {absoluteTimeout: 1h}"), f"{_RULE}.sessionPersistence.absoluteTimeout"),
    (
        _of_rule("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}, absoluteTimeout: 500ms}"),
        f"{_RULE}.sessionPersistence.absoluteTimeout",
    ),
    (
        http_route("- sessionPersistence: {type: Header}\n  backendRefs: [{name: a}, {name: b}, {name: c, weight: 0}]"),
        f"{_RULE}.sessionPersistence.type",
    ),
    (_grpc("{matches: [{method: {}}], backendRefs: [{name: o}]}"), f"{_RULE}.matches[0].method"),
    (_grpc("{matches: [{method: {service: a-b}}], backendRefs: [{name: o}]}"), f"{_RULE}.matches[0].method.service"),
    (
        _grpc("{matches: [{method: {type: RegularExpression, method: '(?i)a'}}], backendRefs: [{name: o}]}"),
        f"{_RULE}.matches[0].method.method",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("route", "path"), FAULTY, ids=lambda value: value if isinstance(value, str) else "")
def test_a_fault_has_the_path_of_its_field(route: AnyRoute, path: str) -> None:
    found = list(route_faults(route))
    assert [json_path(fault.path) for fault in found] == [path]
    assert all(fault.message and fault.remedy for fault in found)


@pytest.mark.parametrize(("route", "path"), FAULTY, ids=lambda value: value if isinstance(value, str) else "")
def test_a_sidecar_does_not_believe_it(route: AnyRoute, path: str) -> None:
    with pytest.raises(Corrupt) as caught:
        read(route.ref, codec.encode(route))
    assert caught.value.problem.path == path


@pytest.mark.parametrize(
    "text",
    [
        "parentRefs: [{name: orders}]",
        "parentRefs: []",
        "parentRefs: [{kind: Mesh, name: orders}]",
        "parentRefs: [{kind: Service, name: orders}]\n  hostnames: ['a.*']",
        "parentRefs: [{kind: Service, name: orders}]\n  hostnames: ['a:80']",
        "parentRefs: [{kind: Service, name: orders}]\n  hostnames: ['A.example']",
    ],
)
def test_the_schema_refuses(text: str) -> None:
    with pytest.raises(Exception, match=r"\$\.spec"):
        http_route(f"- {_TO}", spec=text)

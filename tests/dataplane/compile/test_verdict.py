"""What can't be judged is closed, and what a report says is taken as it is."""

from __future__ import annotations

import pytest
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf import any_pb2, wrappers_pb2

from dataplane.compile.inbound import ALLOW, DENY
from dataplane.compile.open_streams import HEADERS, Connection, OpenStream, address_of, reported
from dataplane.compile.resources import ROUTES, Resource
from dataplane.compile.tls import packed
from dataplane.compile.verdict import Judge

WEB = "spiffe://shop.example/ns/shop/svc/web"
STREAM = OpenStream(Connection(("192.0.2.1", 8080), ("192.0.2.2", 4711)), (WEB,), "GET", "/a")
ANYTHING = rbac_pb2.Policy(permissions=[rbac_pb2.Permission(any=True)], principals=[rbac_pb2.Principal(any=True)])
UNKNOWN = rbac_pb2.Policy(
    permissions=[rbac_pb2.Permission(destination_port=8080)], principals=[rbac_pb2.Principal(any=True)]
)


def routes(*, deny: rbac_pb2.Policy | None = None, allow: rbac_pb2.Policy | None = None) -> Resource:
    host = route_components_pb2.VirtualHost(name="x", domains=["*"])
    for name, action, policy in ((DENY, rbac_pb2.RBAC.DENY, deny), (ALLOW, rbac_pb2.RBAC.ALLOW, allow)):
        rules = rbac_pb2.RBAC(action=action, policies={} if policy is None else {"one": policy})
        per_route = http_rbac_pb2.RBACPerRoute(rbac=http_rbac_pb2.RBAC(rules=rules))
        host.typed_per_filter_config[name].CopyFrom(packed(per_route))
    return Resource.of(ROUTES, "inbound|http", route_pb2.RouteConfiguration(virtual_hosts=[host]))


@pytest.mark.parametrize(
    ("given", "denied"),
    [
        (routes(allow=ANYTHING), False),
        (routes(), True),
        (routes(allow=ANYTHING, deny=ANYTHING), True),
        (routes(allow=UNKNOWN), True),
        (routes(allow=ANYTHING, deny=UNKNOWN), True),
        (Resource.of(ROUTES, "inbound|http", route_pb2.RouteConfiguration()), True),
    ],
)
def test_what_is_not_known_to_be_allowed_is_denied(given: Resource, denied: bool) -> None:
    assert Judge().denies(given, STREAM) is denied


def read(**what: str) -> rbac_pb2.Policy:
    """For everybody: requests of `method`, or to `path`."""
    permission = rbac_pb2.Permission(any=not what)
    if "method" in what:
        matcher = route_components_pb2.HeaderMatcher(name=":method")
        matcher.string_match.exact = what["method"]
        permission = rbac_pb2.Permission(header=matcher)
    elif "path" in what:
        permission = rbac_pb2.Permission()
        permission.url_path.path.exact = what["path"]
    return rbac_pb2.Policy(permissions=[permission], principals=[rbac_pb2.Principal(any=True)])


@pytest.mark.parametrize(
    ("given", "denied"),
    [
        (routes(allow=ANYTHING), False),
        (routes(), True),
        (routes(allow=ANYTHING, deny=ANYTHING), True),
        (routes(allow=read(method="GET")), False),
        (routes(allow=read(path="/a")), False),
        (routes(allow=ANYTHING, deny=read(method="GET")), False),
        (routes(allow=ANYTHING, deny=read(path="/a")), False),
        (routes(allow=UNKNOWN), True),
        (routes(allow=ANYTHING, deny=UNKNOWN), True),
    ],
)
def test_a_connection_is_denied_where_nothing_that_could_be_asked_is_allowed(given: Resource, denied: bool) -> None:
    assert Judge().denies(given, STREAM._replace(method=None, path="")) is denied


def test_who_has_two_identities_goes_on_with_nothing() -> None:
    both = STREAM._replace(identities=(WEB, "spiffe://other.example/ns/shop/svc/web"))
    assert Judge().denies(routes(allow=ANYTHING), both)


@pytest.mark.parametrize("by_bytes", [False, True])
def test_a_report(by_bytes: bool) -> None:
    message = als_pb2.StreamAccessLogsMessage()
    entry = message.http_logs.log_entry.add() if not by_bytes else None
    common = entry.common_properties if entry is not None else message.tcp_logs.log_entry.add().common_properties
    common.downstream_local_address.socket_address.address = "192.0.2.1"
    common.downstream_local_address.socket_address.port_value = 8080
    # What the peer says in X-Forwarded-For must not decide whose connection is closed.
    common.downstream_remote_address.socket_address.address = "198.51.100.1"
    common.downstream_direct_remote_address.socket_address.address = "192.0.2.2"
    common.downstream_direct_remote_address.socket_address.port_value = 4711
    common.tls_properties.peer_certificate_properties.subject_alt_name.add(uri=WEB)
    if entry is not None:
        entry.request.request_headers.update({":method": "GET", ":path": "/a"})
    assert list(reported(message)) == [STREAM._replace(method=None, path="") if by_bytes else STREAM]


@pytest.mark.parametrize(
    ("kept", "known", "headers"),
    [
        ('{"x-a":"1,2","x-b":null,"x-c":""}', ("x-a", "x-b", "x-c"), (("x-a", "1,2"), ("x-c", ""))),
        ('{"x-a":"caf\\u00c3\\u00a9 \\u00ff"}', ("x-a",), (("x-a", "café \udcff"),)),
        ('{"x-a":"café \\u005cu00ff"}', ("x-a",), (("x-a", "café \\u00ff"),)),
        ('{"x-a":"\\\\u00ff"}', ("x-a",), (("x-a", "\\u00ff"),)),
        ('{"x-a":"' + "\\u00ff" * 4096 + '"}', ("x-a",), (("x-a", "\udcff" * 4096),)),
        ('{"x-a":"\\n","x-b":"1"}', (), ()),  # too long a header
        ('{"x-a":"é","x-b":"\\u00e9"}', (), ()),
        ("", (), ()),
        ('{"x-a":"', (), ()),
        ('{"x-a":"\\ud800"}', (), ()),
        ('["x-a"]', (), ()),
        ('{"x-a":1}', (), ()),
    ],
)
def test_the_headers_of_a_report(kept: str, known: tuple[str, ...], headers: tuple[tuple[str, str], ...]) -> None:
    """What can't be read is not known, and who is judged by it closed out."""
    message = als_pb2.StreamAccessLogsMessage()
    entry = message.http_logs.log_entry.add()
    entry.common_properties.filter_state_objects[HEADERS].Pack(wrappers_pb2.StringValue(value=kept))
    (one,) = reported(message)
    assert (one.known, one.headers) == (known, headers)
    broken = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.StringValue", value=b"\xff")
    entry.common_properties.filter_state_objects[HEADERS].CopyFrom(broken)
    assert [one.known for one in reported(message)] == [()]


def test_verdicts_of_what_is_long_are_not_kept() -> None:
    """Who is allowed may ask for as much as a request can hold, again and again."""
    judge, given = Judge(), routes(allow=ANYTHING)
    for number in range(3):
        assert not judge.denies(given, STREAM._replace(path=f"/{number}"))
        assert not judge.denies(given, STREAM._replace(path=f"/{number}" * 5000))
        assert not judge.denies(given, STREAM._replace(authority=f"{number}" * 5000))
        assert not judge.denies(given, STREAM._replace(headers=(("x-a", f"{number}" * 5000),)))
    (rules,) = judge._rules.values()
    assert len(rules._said) == 3


def test_an_address_has_one_spelling() -> None:
    assert address_of("::ffff:192.0.2.1", 1) == ("192.0.2.1", 1)
    assert address_of("2001:DB8:0::1", 1) == address_of("2001:db8::1", 1)

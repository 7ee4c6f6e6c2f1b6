"""Requests from URLs, normalised as a sidecar's Envoy does."""

from __future__ import annotations

import pytest

from routing.requests import Address, Request, host_of, parse_url
from schemas.errors import InvalidInput


def asked(method: str, url: str, *headers: tuple[str, str]) -> Request:
    return parse_url(method, url, headers)[1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/"), ("/", "/"), ("/a", "/a"), ("/a/", "/a/"), ("//a///b", "/a/b"), ("/a/./b", "/a/b"),
        ("/a/../b", "/b"), ("/../a", "/a"), ("/a/..", "/"), ("/a/.", "/a/"), ("/%61/%7E", "/a/~"), ("/a%20b", "/a%20b"),
        (r"/a\b", "/a/b"), ("/a/b/../../c/", "/c/"), ("/a//../b", "/a/b"), ("/a/..;p/b", "/b"), ("?q=http://x", "/"),
    ],
)  # fmt: skip
def test_paths(path: str, expected: str) -> None:
    assert asked("GET", f"orders.shop{path}").path == expected
    assert asked("GET", f"HTTP://orders.shop:80{path}").path == expected


@pytest.mark.parametrize(
    ("method", "url", "header", "why"),
    [
        ("GET", "orders/a%2fb", None, "escaped slash"), ("GET", "orders/%00", None, "zero byte"),
        ("GET", "orders/x%252fb", None, "escaped twice"), ("GET", "orders/%zz", None, "without hex digits"),
        ("GET", "orders/a\tb", None, "can't stand in"), ("GET", "orders/a?\u00e9", None, "can't stand in"),
        ("get", "orders/", None, "upper case"), ("", "orders/", None, "upper case"),
        ("GET", "orders/", ("x_user", "anna"), "underscore"), ("GET", "orders/", ("x", "a\nb"), "not one of HTTP"),
        ("CONNECT", "orders", None, "names host and port"),
    ],
)  # fmt: skip
def test_what_is_answered_400(method: str, url: str, header: tuple[str, str] | None, why: str) -> None:
    assert why in asked(method, url, *([header] if header else [])).refused


def test_a_url() -> None:
    address, request = parse_url("PUT", "http://Orders.Shop:8080/a//b?x=1&x=2&y=", [("X-One", "a"), ("x-one", " b")])
    assert address == Address("orders.shop", 8080)
    assert (request.host, request.method, request.path) == ("orders.shop", "PUT", "/a/b")
    assert (request.parameter("x"), request.parameter("y"), request.parameter("z")) == ("1", "", None)
    assert (request.header("X-ONE"), request.header("x-two"), request.refused) == ("a,b", None, "")


def test_a_query_is_not_decoded() -> None:
    request = asked("GET", "orders/?a=%31&%62=+&&c;d=1=2&e")
    assert request.query == (("a", "%31"), ("%62", "+"), ("", ""), ("c;d", "1=2"), ("e", ""))


def test_a_connect_has_no_path() -> None:
    address, request = parse_url("CONNECT", "orders.shop:5432")
    assert (address.port, request.path, request.refused) == (5432, "/", "")


def test_a_host_header_counts_instead_of_the_url() -> None:
    address, request = parse_url("GET", "orders.shop", [("Host", "API.example.com:99")])
    assert (address, request.host) == (Address("orders.shop", None), "api.example.com")


@pytest.mark.parametrize(
    "url", ["https://orders.shop/", "http://", "http://a:b/", "http://a/#x", "/a", "a\tb/", "a\\b/"]
)
def test_what_is_no_request(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse_url("GET", url)


def test_grpc_is_told_by_its_content_type() -> None:
    for kind, is_grpc in {
        "application/grpc": True,
        "application/grpc+proto": True,
        "application/grpc-web": False,
    }.items():
        assert parse_url("POST", "orders/a", [("content-type", kind)])[1].is_grpc is is_grpc


def test_hosts() -> None:
    assert [host_of(one) for one in ("A.b:80", "a:", "a")] == ["a.b", "a", "a"]

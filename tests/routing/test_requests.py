"""Requests from URLs, normalised as a sidecar's Envoy does."""

from __future__ import annotations

import pytest

from routing.requests import Address, host_of, normalised, parse_url
from schemas.errors import InvalidInput


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"), ("/a", "/a"), ("/a/", "/a/"), ("//a///b", "/a/b"), ("/a/./b", "/a/b"), ("/a/../b", "/b"),
        ("/../a", "/a"), ("/a/..", "/"), ("/a/.", "/a/"), ("/%61/%7E", "/a/~"), ("/a%20b", "/a%20b"), (r"/a\b", "/a/b"),
        ("/a/b/../../c/", "/c/"),
    ],
)  # fmt: skip
def test_paths(path: str, expected: str) -> None:
    assert normalised(path) == expected


@pytest.mark.parametrize("path", ["/a%2fb", "/a%2F", "/%5c", "/%00"])
def test_escaped_slashes_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="400"):
        normalised(path)


def test_a_url() -> None:
    address, request = parse_url("get", "http://Orders.Shop:8080/a//b?x=1&x=2&y=", [("X-One", "a"), ("x-one", "b")])
    assert address == Address("orders.shop", 8080)
    assert (request.host, request.method, request.path) == ("orders.shop", "GET", "/a/b")
    assert (request.parameter("x"), request.parameter("y"), request.parameter("z")) == ("1", "", None)
    assert (request.header("X-ONE"), request.header("x-two")) == ("a,b", None)


def test_a_host_header_counts_instead_of_the_url() -> None:
    address, request = parse_url("GET", "orders.shop", [("Host", "API.example.com:99")])
    assert (address, request.host) == (Address("orders.shop", None), "api.example.com")


@pytest.mark.parametrize("url", ["https://orders.shop/", "http://", "http://a:b/", "http://a/#x"])
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

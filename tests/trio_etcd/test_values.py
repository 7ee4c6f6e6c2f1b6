"""The pure parts: ranges, endpoints, versions, and what must not show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_etcd import Compare, Target, parse_version, prefix_range, wire
from trio_etcd.transport import parse_endpoint


@given(prefix=st.binary(max_size=4), key=st.binary(min_size=1, max_size=6))
def test_a_prefix_range_holds_exactly_what_starts_with_it(prefix: bytes, key: bytes) -> None:
    start, end = prefix_range(prefix)
    inside = key >= start and (end == b"\0" or key < end)
    assert inside is key.startswith(prefix)


@pytest.mark.parametrize(
    ("text", "tls", "expected"),
    [
        ("127.0.0.1:2379", False, "127.0.0.1:2379"),
        ("http://etcd.example:2379/", False, "etcd.example:2379"),
        ("https://etcd.example:2379", True, "etcd.example:2379"),
        ("etcd.example:2379", True, "etcd.example:2379"),
        ("https://[fd00::1]:2379", True, "[fd00::1]:2379"),
        ("[::1]:2379", False, "[::1]:2379"),
        ("unix:/run/etcd.sock", False, "unix:/run/etcd.sock"),
    ],
)
def test_endpoints(text: str, tls: bool, expected: str) -> None:
    assert parse_endpoint(text, tls=tls) == expected


@pytest.mark.parametrize(
    ("text", "tls", "why"),
    [
        ("127.0.0.1", False, "host:port"),
        ("127.0.0.1:port", False, "host:port"),
        ("127.0.0.1:99999", False, "host:port"),
        ("ftp://a:1", False, "host:port"),
        ("https://a:1/path", True, "host:port"),
        ("", False, "host:port"),
        ("https://a:1", False, "wants TLS"),
        ("http://a:1", True, "plaintext"),
    ],
)
def test_malformed_endpoints_say_why(text: str, tls: bool, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_endpoint(text, tls=tls)


def test_versions() -> None:
    assert parse_version("3.5.30") == (3, 5, 30)
    assert parse_version("3.7.0-rc.1") == (3, 7, 0)
    for malformed in ("", "3.5", "three", "3.5.x"):
        with pytest.raises(ValueError, match=r"version|invalid literal"):
            parse_version(malformed)


def test_a_comparison_with_the_wrong_type_says_so() -> None:
    with pytest.raises(TypeError, match="mod_revision needs an int, not bytes"):
        wire.txn_request([Compare(b"k", Target.MOD, b"1")], [], [])

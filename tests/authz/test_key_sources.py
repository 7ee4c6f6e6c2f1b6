"""Which URLs keys may be fetched from, and which keys are in force."""

from __future__ import annotations

import msgspec
import pytest

from authz.key_sources import fetched_from, keys_in_force, source_faults
from schemas.key_sets import ca_digest, place
from schemas.objects.request_authentication import JwtRule
from tests.support.tokens import NOBODYS

URI = "https://login.example.com/keys"


def rule(**fields: object) -> JwtRule:
    return msgspec.convert({"issuer": "https://login.example.com", **fields}, JwtRule)


@pytest.mark.parametrize(
    "uri",
    [
        URI,
        "https://[2001:db8::1]:8443/k?format=jwks",
        "https://login.example.com",
        "https://10.0.0.7/",
        "https://a.b/%7Ek",
    ],
)
def test_urls_of_keys(uri: str) -> None:
    assert not list(source_faults(rule(jwksUri=uri), ()))


@pytest.mark.parametrize(
    "uri",
    [
        "http://login.example.com/keys",
        "HTTPS://login.example.com/keys",
        "https:///keys",
        "https://user:secret@login.example.com/keys",
        "https://login.example.com\\@evil.example/keys",
        "https://login.example.com/keys#fragment",
        "https://login.example.com/ke ys",
        "https://login.example.com/keys\n",
        "https://bücher.example/keys",
        "https://login.example.com:0/keys",
        "https://login.example.com:70000/keys",
        "https://[::1/keys",
        "https://login.example.com/" + "k" * 2048,
        "file:///etc/passwd",
    ],
)
def test_what_is_no_url_of_keys(uri: str) -> None:
    try:
        made = rule(jwksUri=uri)
    except msgspec.ValidationError:
        return
    assert list(source_faults(made, ()))


def test_which_keys_are_in_force() -> None:
    known = {place(URI, b""): NOBODYS, place(URI, ca_digest("a")): "no keys"}
    assert keys_in_force(rule(jwks=NOBODYS), known.get) == NOBODYS
    assert keys_in_force(rule(jwks="no keys"), known.get) is None
    assert keys_in_force(rule(jwksUri=URI), known.get) == NOBODYS
    assert keys_in_force(rule(jwksUri=URI, jwksCa="a"), known.get) is None
    assert keys_in_force(rule(jwksUri=URI, jwksCa="b"), known.get) is None
    assert keys_in_force(rule(jwksUri=URI + "/"), known.get) is None
    assert fetched_from(rule(jwks=NOBODYS)) is None

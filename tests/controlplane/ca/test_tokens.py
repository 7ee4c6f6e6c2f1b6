"""Join tokens: one use, expiring, not to be guessed; the pure part."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.ca import tokens
from schemas import codec
from schemas.errors import InvalidInput, Unauthenticated
from schemas.names import ServiceRef
from schemas.records import JoinToken
from tests.spiffe.certificates import HOUR, NOW

ORDERS = ServiceRef("shop", "orders")
TOKEN = tokens.make(bytes(range(tokens.RANDOM_BYTES)))
STORED = tokens.record(TOKEN, ORDERS, NOW, HOUR, "operator/ada")


@given(st.binary(min_size=tokens.RANDOM_BYTES, max_size=tokens.RANDOM_BYTES))
def test_a_token_is_read_back_as_it_was_made(random_bytes: bytes) -> None:
    made = tokens.make(random_bytes)
    assert made.text == f"mjt1.{made.id}.{made.secret}"
    assert tokens.parse(made.text) == made


def test_tokens_differ_in_id_and_secret() -> None:
    rng = random.Random(1)
    made = [tokens.make(rng.randbytes(tokens.RANDOM_BYTES)) for _ in range(100)]
    assert len({token.id for token in made}) == len({token.secret for token in made}) == 100
    with pytest.raises(ValueError, match="random bytes"):
        tokens.make(bytes(8))


def test_etcd_learns_neither_the_secret_nor_the_token() -> None:
    stored = codec.encode(STORED)
    assert TOKEN.secret.encode() not in stored
    assert codec.decode(stored, JoinToken, "test").sha256 == TOKEN.sha256
    assert len(TOKEN.sha256) == 32


@pytest.mark.parametrize("kind", ["token", "record"])
def test_the_secret_never_shows(kind: str) -> None:
    shown = repr(TOKEN) if kind == "token" else repr(STORED)
    assert TOKEN.secret not in shown
    assert repr(TOKEN.sha256) not in shown


@pytest.mark.fault(17)
def test_a_good_token_is_used_once() -> None:
    used = tokens.consume(TOKEN, STORED, NOW + 10, "10.0.0.7")
    assert (used.used, used.used_by) == (NOW + 10, "10.0.0.7")
    assert tokens.service_of(used) == ORDERS
    for later in (NOW + 10, NOW + 11, NOW + 2 * HOUR):
        with pytest.raises(Unauthenticated, match="has been used"):
            tokens.consume(TOKEN, used, later, "10.0.0.8")


@pytest.mark.fault(17)
def test_it_expires_to_the_second() -> None:
    tokens.consume(TOKEN, STORED, NOW + HOUR - 0.001, "x")
    for now in (NOW + HOUR, NOW + HOUR + 1):
        with pytest.raises(Unauthenticated, match="expired"):
            tokens.consume(TOKEN, STORED, now, "x")


@pytest.mark.fault(17)
def test_a_forged_token_and_an_unknown_one_look_alike() -> None:
    forged = tokens.Token(TOKEN.id, tokens.make(bytes(tokens.RANDOM_BYTES)).secret)
    expired_and_used = tokens.consume(TOKEN, STORED, NOW, "x")
    answers = set()
    for stored in (None, STORED, expired_and_used):
        with pytest.raises(Unauthenticated) as caught:
            tokens.consume(forged, stored, NOW + 2 * HOUR, "x")
        answers.add(str(caught.value))
    assert len(answers) == 1


def test_the_record_of_another_id_does_not_count() -> None:
    other = tokens.Token("0" * 16, TOKEN.secret)
    with pytest.raises(Unauthenticated, match="unknown"):
        tokens.consume(other, STORED, NOW, "x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mjt1",
        TOKEN.text + "\n",
        " " + TOKEN.text,
        TOKEN.text + "=",
        TOKEN.text[:-1],
        TOKEN.text.replace("mjt1", "mjt2"),
        TOKEN.text.replace(TOKEN.id, TOKEN.id.upper() + "/"),
        TOKEN.text.replace(TOKEN.id, "../../../../../x"),
        TOKEN.text.replace(TOKEN.secret, TOKEN.secret[:-1] + "é"),
        "mjt1." + "٣" * 16 + "." + TOKEN.secret,
    ],
)
@pytest.mark.fault(17)
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        tokens.parse(text)
    assert TOKEN.secret not in str(caught.value)


@given(st.text())
def test_any_text_is_refused_or_a_token(text: str) -> None:
    with contextlib.suppress(Unauthenticated):
        assert tokens.parse(text).text == text


@pytest.mark.parametrize("ttl", [0, -1, 59, tokens.MAX_TTL_SECONDS + 1])
def test_lives_out_of_bounds_are_refused(ttl: int) -> None:
    with pytest.raises(InvalidInput, match="lives"):
        tokens.record(TOKEN, ORDERS, NOW, ttl, "x")

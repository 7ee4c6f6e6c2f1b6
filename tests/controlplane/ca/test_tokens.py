"""Join tokens: one use, expiring, not to be guessed; the pure part."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.ca import tokens
from controlplane.ca.tokens import AnyToken, Terms
from schemas import codec
from schemas.errors import Conflict, InvalidInput, Unauthenticated
from schemas.records import JoinToken, LoginToken, TokenUse
from schemas.selectors import ServiceSelector
from tests.spiffe.certificates import HOUR, NOW

ORDERS = ServiceSelector("shop", "orders")
EPOCH = "4f1c"
TERMS = Terms(NOW, HOUR, "operator/ada", EPOCH)
TOKEN = tokens.make(bytes(range(tokens.RANDOM_BYTES)))
STORED = tokens.join_record(TOKEN, ORDERS, TERMS)
LOGIN = tokens.make(bytes(range(tokens.RANDOM_BYTES)), LoginToken)


def use_it(
    presented: tokens.Token, stored: AnyToken | None, now: float, *, by: str = "x", epoch: str = EPOCH
) -> AnyToken:
    """As a replica does: look, then count."""
    tokens.check(presented, stored, epoch, now)
    assert stored is not None
    return tokens.consume(stored, TokenUse(at=int(now), by=by))


@given(st.binary(min_size=tokens.RANDOM_BYTES, max_size=tokens.RANDOM_BYTES))
def test_a_token_is_read_back_as_it_was_made(random_bytes: bytes) -> None:
    made = tokens.make(random_bytes)
    assert made.text == f"mjt1.{made.id}.{made.secret}"
    assert tokens.parse(made.text, JoinToken) == made
    login = tokens.make(random_bytes, LoginToken)
    assert login.text == f"mlt1.{made.id}.{made.secret}"
    assert tokens.parse(login.text, LoginToken) == login


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
    used = use_it(TOKEN, STORED, NOW + 10, by="10.0.0.7")
    assert used.used == (TokenUse(at=NOW + 10, by="10.0.0.7"),)
    for later in (NOW + 10, NOW + 11, NOW + 2 * HOUR):
        with pytest.raises(Unauthenticated, match="has been used;"):
            use_it(TOKEN, used, later)


@pytest.mark.fault(17)
def test_a_token_of_three_uses_is_used_three_times() -> None:
    stored: AnyToken = tokens.join_record(TOKEN, ORDERS, replace(TERMS, uses=3))
    for left in (3, 2, 1):
        assert tokens.uses_left(stored, EPOCH, NOW) == left
        stored = use_it(TOKEN, stored, NOW)
    with pytest.raises(Unauthenticated, match="has been used 3 times"):
        use_it(TOKEN, stored, NOW)
    assert tokens.uses_left(stored, EPOCH, NOW) == 0


@pytest.mark.fault(17)
def test_it_expires_to_the_second() -> None:
    use_it(TOKEN, STORED, NOW + HOUR - 0.001)
    for now in (NOW + HOUR, NOW + HOUR + 1):
        with pytest.raises(Unauthenticated, match="expired"):
            use_it(TOKEN, STORED, now)
        assert tokens.uses_left(STORED, EPOCH, now) == 0


@pytest.mark.fault(17)
@pytest.mark.fault(5)
def test_after_a_restore_it_counts_as_used() -> None:
    with pytest.raises(Unauthenticated, match="before etcd was restored"):
        use_it(TOKEN, STORED, NOW, epoch="another")
    assert tokens.uses_left(STORED, "another", NOW) == 0


def test_a_revoked_token_lets_nobody_in() -> None:
    gone = tokens.revoke(STORED, NOW + 5, "operator/bert")
    assert (gone.revoked, gone.revoked_by) == (NOW + 5, "operator/bert")
    with pytest.raises(Unauthenticated, match="was revoked"):
        use_it(TOKEN, gone, NOW + 6)
    with pytest.raises(Conflict, match="operator/bert"):
        tokens.revoke(gone, NOW + 7, "operator/anna")


@pytest.mark.fault(17)
def test_a_forged_token_and_an_unknown_one_look_alike() -> None:
    forged = replace(TOKEN, secret=tokens.make(bytes(tokens.RANDOM_BYTES)).secret)
    used = use_it(TOKEN, STORED, NOW)
    answers = set()
    for stored in (None, STORED, used, tokens.revoke(STORED, NOW, "x")):
        with pytest.raises(Unauthenticated) as caught:
            use_it(forged, stored, NOW + 2 * HOUR)
        answers.add(str(caught.value))
    assert len(answers) == 1


def test_the_record_of_another_id_does_not_count() -> None:
    with pytest.raises(Unauthenticated, match="unknown"):
        use_it(replace(TOKEN, id="0" * 16), STORED, NOW)


def test_a_token_of_the_other_kind_does_not_count() -> None:
    """Same id, same secret: a login token makes no sidecar, a join token no operator."""
    as_login = tokens.login_record(LOGIN, "anna", TERMS)
    with pytest.raises(Unauthenticated, match="not a join token"):
        tokens.parse(LOGIN.text, JoinToken)
    with pytest.raises(Unauthenticated, match="not a login token"):
        tokens.parse(TOKEN.text, LoginToken)
    for presented, stored in ((TOKEN, as_login), (LOGIN, STORED)):
        with pytest.raises(Unauthenticated, match="unknown"):
            use_it(presented, stored, NOW)


def test_what_it_is_bound_to() -> None:
    any_of_shop = tokens.join_record(TOKEN, ServiceSelector("shop", None), TERMS)
    for record, bound_to in ((STORED, "shop/orders"), (any_of_shop, "shop/*")):
        assert (record.bound_to, str(tokens.selector_of(record))) == (bound_to, bound_to)
        assert tokens.decode(codec.encode(record), "test") == record
    assert tokens.login_record(LOGIN, "anna", TERMS).bound_to == "operator/anna"


@pytest.mark.parametrize("text", ["", TOKEN.text, TOKEN.secret, "0" * 15, "g" * 16, "../../../control"])
def test_an_id_is_an_id(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tokens.check_id(text)
    assert TOKEN.secret not in str(caught.value)


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
        tokens.parse(text, JoinToken)
    assert TOKEN.secret not in str(caught.value)


@given(st.text())
def test_any_text_is_refused_or_a_token(text: str) -> None:
    with contextlib.suppress(Unauthenticated):
        assert tokens.parse(text, JoinToken).text == text


@pytest.mark.parametrize("ttl", [0, -1, 59, tokens.MAX_TTL_SECONDS + 1])
def test_lives_out_of_bounds_are_refused(ttl: int) -> None:
    with pytest.raises(InvalidInput, match="lives"):
        tokens.join_record(TOKEN, ORDERS, replace(TERMS, ttl_seconds=ttl))


@pytest.mark.parametrize("uses", [0, -1, tokens.MAX_USES + 1])
def test_uses_out_of_bounds_are_refused(uses: int) -> None:
    with pytest.raises(InvalidInput, match="uses"):
        tokens.join_record(TOKEN, ORDERS, replace(TERMS, uses=uses))


def test_a_login_token_is_for_one_use() -> None:
    with pytest.raises(InvalidInput, match="2 uses"):
        tokens.login_record(LOGIN, "anna", replace(TERMS, uses=2))

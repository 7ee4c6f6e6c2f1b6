"""Which bundle documents of another trust domain are taken in place of which."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import JwtAuthority, TrustBundle
from spiffe.bundle import record
from spiffe.federation import MAX_HINT_SECONDS, MIN_HINT_SECONDS, Taken, take
from spiffe.jwks import InvalidBundle, decode, encode
from tests.spiffe.certificates import AUTHORITY, Shape, Signer, new_key

TD = "td.example"
ROOTS = [Signer.root(AUTHORITY).certificate for _ in range(3)]
OURS = Signer.root(Shape(**{**AUTHORITY.__dict__, "uris": ()}))
DER = OURS.certificate.public_bytes(Encoding.DER)


def served(*roots: int, sequence: int | None = 1, **more: object) -> bytes:
    document = json.loads(encode(record(TD, [ROOTS[one] for one in roots], 1)))
    document |= {"spiffe_sequence": sequence, **more}
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def step(before: Taken | None, data: bytes, *, start_over: bool = False) -> Taken:
    held = before.record if before else None
    known = before.served_sequence if before else None
    return take(decode(data, TD), TD, held, known, [DER], start_over=start_over)


def roots_of(taken: Taken) -> set[bytes]:
    return set(taken.record.x509_authorities)


@pytest.mark.spiffe(12)
@pytest.mark.fault(28)
def test_a_lower_sequence_is_refused() -> None:
    seven = step(None, served(0, sequence=7))
    assert (seven.record.sequence, seven.served_sequence) == (7, 7)
    with pytest.raises(InvalidBundle, match="older than what is known: spiffe_sequence 6, after 7"):
        step(seven, served(1, sequence=6))
    with pytest.raises(InvalidBundle, match="older"):
        step(seven, served(0, sequence=6))  # the same keys
    with pytest.raises(InvalidBundle, match="no spiffe_sequence, after one with 7"):
        step(seven, served(1, sequence=None))
    with pytest.raises(InvalidBundle, match="other keys than before, and the same spiffe_sequence"):
        step(seven, served(1, sequence=7))
    assert step(seven, served(0, sequence=7)) == seven
    assert step(seven, served(0, 1, sequence=8)).record.sequence == 8


@pytest.mark.spiffe(12)
def test_without_sequences_ours_counts() -> None:
    first = step(None, served(0, sequence=None))
    second = step(first, served(1, sequence=None))
    again = step(second, served(1, sequence=None))
    assert [one.record.sequence for one in (first, second, again)] == [1, 2, 2]
    assert second.served_sequence is None


@pytest.mark.spiffe(12)
@pytest.mark.fault(28)
def test_empty_keys_are_taken_and_mean_nobody() -> None:
    before = step(None, served(0, sequence=1))
    after = step(before, json.dumps({"keys": [], "spiffe_sequence": 2}).encode())
    assert roots_of(after) == set()
    assert after.record.sequence == 2


@given(st.lists(st.tuples(st.sets(st.integers(0, 2)), st.none() | st.integers(0, 5), st.booleans()), max_size=8))
def test_the_stored_sequence_never_goes_down_and_grows_with_every_change(
    steps: list[tuple[set[int], int | None, bool]],
) -> None:
    held: Taken | None = None
    for roots, sequence, start_over in steps:
        try:
            after = step(held, served(*sorted(roots), sequence=sequence), start_over=start_over)
        except InvalidBundle:
            assert not start_over
            continue
        if held is not None:
            assert after.record.sequence >= held.record.sequence
            if roots_of(after) != roots_of(held):
                assert after.record.sequence > held.record.sequence
        held = after


@pytest.mark.fault(28)
@pytest.mark.spiffe(14)
def test_the_bundle_of_another_trust_domain_is_refused() -> None:
    other = record("other.example", ROOTS[:1], 1)  # whose authority says that it is of td.example
    with pytest.raises(InvalidBundle, match="authority of another trust domain"):
        take(decode(encode(other), TD), "other.example", None, None, [])
    ours = record(TD, [OURS.certificate], 1)
    with pytest.raises(InvalidBundle, match="our own trust domain"):
        take(decode(encode(ours), TD), TD, None, None, [DER])


@pytest.mark.spiffe(7)
def test_an_authority_that_is_no_ca_is_refused() -> None:
    leaf = Signer.root().issue(Shape(uris=(f"spiffe://{TD}/x",)))
    with pytest.raises(InvalidBundle, match="no CA"):
        take(decode(encode(record(TD, [leaf], 1)), TD), TD, None, None, [])


@pytest.mark.parametrize(
    ("hint", "kept"),
    [(None, 300), (0, MIN_HINT_SECONDS), (60, 60), (10**9, MAX_HINT_SECONDS), (10**30, MAX_HINT_SECONDS)],
)
@pytest.mark.spiffe(24)
def test_hints_are_followed_within_bounds(hint: int | None, kept: int) -> None:
    assert step(None, served(0, spiffe_refresh_hint=hint)).record.refresh_hint_seconds == kept


def test_a_sequence_beyond_64_bits_is_refused() -> None:
    with pytest.raises(InvalidBundle, match="above"):
        step(None, served(0, sequence=2**63))


def test_jwt_keys_count_as_content() -> None:
    def with_jwt(kid: str, sequence: int) -> bytes:
        der = new_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        held = TrustBundle(
            trust_domain=TD,
            sequence=sequence,
            x509_authorities=(ROOTS[0].public_bytes(Encoding.DER),),
            jwt_authorities=(JwtAuthority(kid=kid, public_key=der),),
        )
        return encode(held)

    first = with_jwt("a", 1)
    held = step(None, first)
    assert step(held, first) == held
    with pytest.raises(InvalidBundle, match="same spiffe_sequence"):
        step(held, with_jwt("b", 1))
    assert [one.kid for one in step(held, with_jwt("b", 2)).record.jwt_authorities] == ["b"]

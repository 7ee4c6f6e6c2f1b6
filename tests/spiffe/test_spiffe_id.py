"""`SpiffeId` against the SPIFFE-ID standard, lines 1 to 4 of the conformance list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidInput
from schemas.names import MAX_SPIFFE_ID_BYTES, ServiceRef, SpiffeId

TRUST_DOMAINS = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=255)
SEGMENTS = st.text("abzABZ019._-", min_size=1, max_size=20).filter(lambda segment: segment not in (".", ".."))
PATHS = st.lists(SEGMENTS, max_size=6).map(lambda segments: "".join(f"/{segment}" for segment in segments))


@given(TRUST_DOMAINS, PATHS)
@pytest.mark.spiffe(1)
@pytest.mark.spiffe(3)
def test_every_valid_id_parses_to_itself(trust_domain: str, path: str) -> None:
    text = f"spiffe://{trust_domain}{path}"
    found = SpiffeId.parse(text)
    assert (found.trust_domain, found.path, str(found)) == (trust_domain, path, text)


@given(st.text())
@pytest.mark.spiffe(3)
def test_whatever_parses_is_of_the_grammar(text: str) -> None:
    for candidate in (text, f"spiffe://{text}", f"spiffe://td/{text}"):
        try:
            found = SpiffeId.parse(candidate)
        except InvalidInput:
            continue
        assert str(found).lower() == candidate.lower()
        assert str(found).isascii()
        assert not set(str(found)[9:]) & set("%?#@:\n\\ ")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("http://td/a", id="another scheme"),
        pytest.param("spiffe:/td/a", id="one slash"),
        pytest.param("spiffe:///a", id="no trust domain"),
        pytest.param("spiffe://", id="nothing after the scheme"),
        pytest.param("spiffe://td/a?b=c", id="query"),
        pytest.param("spiffe://td/a#b", id="fragment"),
        pytest.param("spiffe://user@td/a", id="user info"),
        pytest.param("spiffe://td:443/a", id="port"),
        pytest.param("spiffe://td:/a", id="empty port"),
        pytest.param(" spiffe://td/a", id="leading space"),
    ],
)
@pytest.mark.spiffe(1)
def test_what_is_no_spiffe_uri_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        SpiffeId.parse(text)


@pytest.mark.parametrize("trust_domain", ["t%64", "tÿ", "t d", "t:d", "t\u212a", "a" * 256, "td\n", "[::1]"])
@pytest.mark.spiffe(2)
def test_what_is_no_trust_domain_is_refused(trust_domain: str) -> None:
    with pytest.raises(InvalidInput):
        SpiffeId.parse(f"spiffe://{trust_domain}/a")


@pytest.mark.parametrize("trust_domain", ["1.2.3.4", "example.org", "-", "..", "_a", "a" * 255])
@pytest.mark.spiffe(2)
def test_addresses_and_host_names_get_no_special_treatment(trust_domain: str) -> None:
    assert SpiffeId.parse(f"spiffe://{trust_domain}/a").trust_domain == trust_domain


@pytest.mark.parametrize(
    "path", ["/", "/a/", "//a", "/a//b", "/./a", "/a/..", "/a%41", "/a b", "/ä", "/a\n", "/a\x00", "/a\\b", "/a;b"]
)
@pytest.mark.spiffe(3)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        SpiffeId.parse(f"spiffe://td{path}")


@pytest.mark.spiffe(3)
def test_scheme_and_trust_domain_ignore_case_and_the_path_does_not() -> None:
    assert SpiffeId.parse("SPIFFE://TD.Example/A") == SpiffeId("td.example", "/A")
    assert SpiffeId.parse("spiffe://td/A") != SpiffeId.parse("spiffe://td/a")


@pytest.mark.spiffe(3)
def test_dots_that_are_not_alone_in_a_segment_are_allowed() -> None:
    assert SpiffeId.parse("spiffe://td/.../..a/a..").path == "/.../..a/a.."


@pytest.mark.spiffe(4)
def test_2048_bytes_are_supported_and_one_more_is_not() -> None:
    longest = "spiffe://td/" + "a" * (MAX_SPIFFE_ID_BYTES - len("spiffe://td/"))
    assert len(longest) == 2048
    assert str(SpiffeId.parse(longest)) == longest
    with pytest.raises(InvalidInput):
        SpiffeId.parse(longest + "a")


@pytest.mark.spiffe(4)
def test_the_longest_id_we_make_is_within_the_limit() -> None:
    made = SpiffeId.of_service("t" * 255, ServiceRef("n" * 63, "s" * 63))
    assert len(str(made)) <= MAX_SPIFFE_ID_BYTES
    assert SpiffeId.parse(str(made)).service == ServiceRef("n" * 63, "s" * 63)

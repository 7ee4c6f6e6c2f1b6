"""What is left of a JWKS document that a stranger serves."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.jwks import MAX_DOCUMENT_BYTES, InvalidKeys, public_keys
from tests.support.tokens import Issuer

KEYS = json.loads(Issuer("https://one.example").jwks())["keys"]

_names = st.text('a"\\/ ключ\U0001f511\u2028\x7f', max_size=8)


@st.composite
def _documents(draw: st.DrawFn) -> str:
    """Of good keys and bad ones, in any of the ways that JSON may be written."""

    def key(base: Mapping[str, str]) -> dict[str, object]:
        more = draw(
            st.fixed_dictionaries({}, optional={"kid": _names, "alg": st.sampled_from(["RS256", "EdDSA", "x"])})
        )
        padding = draw(st.sampled_from(["", "=", "=="]))
        return {**base, "x5t": "of no use", **more, **({"e": base["e"] + padding} if "e" in base else {})}

    keys = [key(draw(st.sampled_from(KEYS))) for _ in range(draw(st.integers(1, 4)))]
    spaces = draw(st.sampled_from([None, 2]))
    return json.dumps({"keys": keys}, ensure_ascii=draw(st.booleans()), indent=spaces)


@settings(max_examples=30)
@given(_documents())
def test_what_was_taken_once_is_taken_again(document: str) -> None:
    try:
        once = public_keys(document)
    except InvalidKeys:
        return
    assert public_keys(once) == once


def test_what_was_just_short_enough_stays_so() -> None:
    """However long its names are in another way of writing them."""
    names = {**KEYS[2], "kid": ""}
    room = MAX_DOCUMENT_BYTES // 60
    keys = [{**names, "kid": f"{number:02}" + "ключ" * ((room - 110) // 8)} for number in range(55)]
    document = json.dumps({"keys": keys}, ensure_ascii=False)
    assert len(document.encode()) > 0.8 * MAX_DOCUMENT_BYTES
    once = public_keys(document)
    assert len(once.encode()) <= len(document.encode())
    assert json.loads(once)["keys"][0]["kid"] == keys[0]["kid"]
    assert public_keys(once) == once


@pytest.mark.parametrize("kid", ["", "a\nb", "a\u2028b", "\ud800", "k" * 1025])
def test_names_that_nobody_can_print_are_none(kid: str) -> None:
    with pytest.raises(InvalidKeys):
        public_keys(json.dumps({"keys": [{**KEYS[2], "kid": kid}]}))

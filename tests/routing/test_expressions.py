"""Regular expressions: what is let through, Python compiles too; what the engines read differently is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.expressions import MAX_COST, BadExpression, check, compiled

TAKEN = (
    "", "/a", "/a/[0-9]+", "(?i)abc|def", r"/v\d+(?:\.\d{1,3})?/.*", "a{2}", "a{2,}", "a{2,5}?", "[^/]+", r"[\]\-a]",
    "[-a-z]", "[a-]", r"\bword\b", "^/x$", r"\x2f\t", "(a|b)*?c", "(?:(?:a{10}){10}){10}", r"[\d_]+", "a|", "()",
)  # fmt: skip
REFUSED = (
    "(", ")", "a)", "(?=a)", "(?!a)", "(?<=a)", "(?P<n>a)", r"(a)\1", "a**", "a*+", "*a", "a{", "a{,3}", "a{3,2}",
    "a{1001}", "(?:a{100}){100}", "[", "[]", "[]a]", "[[:alpha:]]", "[z-a]", r"[\d-z]", r"\p{L}", r"\u0041", r"\1",
    r"\Z", "a(?i)b", "ä", "a\nb", "^*", r"\b+", r"\xff", "[a--b]", "[a&&b]", "a\\", "{2}", "(?#c)", "(?>a)", "a++",
    r"\Qa\E", "(" * 60 + ")" * 60, "[a-z]{500}",
)  # fmt: skip


@pytest.mark.parametrize("expression", TAKEN)
def test_taken(expression: str) -> None:
    check(expression)


@pytest.mark.parametrize("expression", REFUSED)
def test_refused(expression: str) -> None:
    with pytest.raises(BadExpression):
        check(expression)


def test_a_fault_says_where() -> None:
    with pytest.raises(BadExpression, match=r"at character 3 of '/\('"):
        check("/(")


def test_size_is_bounded() -> None:
    with pytest.raises(BadExpression, match="too large"):
        check("a" * MAX_COST)


def test_the_whole_value_is_matched() -> None:
    assert compiled("a+").fullmatch("aa")
    assert not compiled("a+").fullmatch("aab")
    assert compiled("(?i)A").fullmatch("a")
    assert not compiled(r"\d").fullmatch("٣")  # an Arabic digit: RE2 knows ASCII ones only


@given(st.text(alphabet=r"ab1/.*+?()[]{}^$|\-,:idDwbx2f ", max_size=20))
def test_what_is_taken_python_compiles(expression: str) -> None:
    try:
        check(expression)
    except BadExpression:
        return
    re.compile(expression, re.ASCII)

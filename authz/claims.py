"""What a policy can ask of a token that was proved: its principal, and its claims. Pure.

Claims as the token has them, a JSON object. What a policy means by them is Istio's: a claim is text, or a list of texts
of which one is enough; `scope` and `permission` are lists with spaces in between (RFC 8693, 4.2).
"""

import re
from collections.abc import Mapping
from typing import Any

from authz.patterns import Text

SPACED = ("permission", "scope")
PREFIX = "request.auth.claims"
_STEP = re.compile(r"\[([^\[\]]+)\]")
_PRESENT = Text("regex", "(?s).+")


def claim_path(key: str) -> tuple[str, ...]:
    """``request.auth.claims[a][b]`` ▸ ``("a", "b")``."""
    return tuple(_STEP.findall(key.removeprefix(PREFIX)))


def value_text(pattern: str) -> Text:
    """Of principals and of claims: `text`, `text*`, `*text`, `*`. What is empty is as if it were not there."""
    if pattern == "*":
        return _PRESENT
    if pattern.endswith("*"):
        return Text("prefix", pattern[:-1])
    if pattern.startswith("*"):
        return Text("suffix", pattern[1:])
    return Text("exact", pattern)


def principal(claims: Mapping[str, Any] | None) -> tuple[str, ...]:
    """``issuer/subject``, one or none: a token without a subject is nobody's."""
    issuer, subject = texts(claims, ("iss",)), texts(claims, ("sub",))
    if not isinstance((claims or {}).get("sub"), str) or not issuer or not subject or not subject[0]:
        return ()
    return (f"{issuer[0]}/{subject[0]}",)


def texts(claims: Mapping[str, Any] | None, path: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of a claim; none where it is not there, or is neither text nor a list."""
    value: Any = claims
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return tuple(value.split(" ")) if len(path) == 1 and path[0] in SPACED else (value,)
    if isinstance(value, list | tuple):
        return tuple(one for one in value if isinstance(one, str))
    return ()

"""A request as Envoy has it before any policy or route sees it: what `dataplane.compile.hardening` tells it to. Pure.

Envoy's `normalize_path` (https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto),
`merge_slashes`, and escaped slashes refused; then all that is `REFUSED`. Authorization and routing both judge by this.
Held against a real Envoy by tests/authz and by tests/dataplane/compile/test_routes_envoy.py.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NOT_IN_A_TARGET = re.compile(r"[^\x21-\x7e]|#")  # a fragment never leaves a client (RFC 9110, 4.2.5)
_ESCAPED_SLASH = re.compile(r"%(2f|5c)", re.IGNORECASE)
# Unreserved (RFC 3986, 2.3): with or without escape they are the same.
_ESCAPED = re.compile(r"%(2d|2e|3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9ae])", re.IGNORECASE)
# An escape that only comes to be as others are undone (`%2%65`). Envoy escapes its '%', and so what is escaped twice.
_OF_HEX = "%(?:3[0-9]|[46][1-6])"
_NESTED = re.compile(rf"%(?:{_OF_HEX}(?:{_OF_HEX}|[0-9a-f])|[0-9a-f]{_OF_HEX})", re.IGNORECASE)
_TO_ESCAPE = re.compile(r'["<>^`{|}]')
# What servlet containers take for a dot segment with parameters: `/public/..;x/admin`.
_DOTS_WITH_PARAMETERS = re.compile(r"(?<=/)(\.\.?);[^/]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+")  # a token (RFC 9110, 5.6.2), less '_'
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


_ESCAPED_TWICE = "a part that is escaped twice"


class Refused(Exception):
    """Answered 400 before any policy or route is asked; says why."""


@dataclass(frozen=True, slots=True)
class RefusedPath:
    """Paths that apps do not agree upon, as they are after Envoy's own normalisation.

    `expression` matches such a path in whole, without a query, for RE2 and `re` alike; only one that contains `hint`
    can match.
    """

    name: str
    hint: str
    expression: str
    says: str


REFUSED = (
    # Envoy resolves `..;x`, but undoes escapes only then: `%2e%2e;x` would come to the app as a dot segment after all.
    RefusedPath("dots", "/.", r"(?i)[^?]*/\.\.?(;|%3b)[^?]*", "a dot segment with parameters, which some apps resolve"),
    RefusedPath("escaped-twice", "%25", r"(?i)[^?]*%25[0-9a-f]{2}[^?]*", _ESCAPED_TWICE),
    # Decoders make of it what they like (`%u002e` a dot), or fail.
    RefusedPath(
        "bad-escape", "%", r"(?i)[^?]*%([^0-9a-f][^?]*|[0-9a-f][^0-9a-f][^?]*|[0-9a-f]?)", "a '%' without hex digits"
    ),
    # Longer than UTF-8 allows: decoders that do not look take `%c0%ae` for a dot, `%c0%af` for a slash.
    RefusedPath("overlong", "%", r"(?i)[^?]*%(c[01]%[89ab]|e0%[89]|f0%8)[^?]*", "more bytes to a character than UTF-8"),
)

# Methods are tokens (RFC 9110, 9.1), and case-sensitive; but some apps fold their case, so that to those `delete` is a
# DELETE, which a policy tells apart. Envoy refuses them in HTTP/1.1, and passes them on in HTTP/2.
REFUSED_METHODS = r"(?s).*[^!#$%&'*+.^_`|~0-9A-Z-].*"
"""Matches such a method in whole, for RE2 and `re` alike."""
REFUSED_METHODS_SAY = "the method is not in upper case"


# Envoy's HTTP/1.1 parser knows these alone (balsa_parser.cc, isMethodValid); over HTTP/2 it takes any.
HTTP1_METHODS = frozenset(
    (
        "ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "MERGE", "MKACTIVITY",
        "MKCALENDAR", "MKCOL", "MOVE", "MSEARCH", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH",
        "PURGE", "PUT", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK",
        "UNSUBSCRIBE",
    )
)  # fmt: skip


def check_head(method: str, headers: Iterable[tuple[str, str]]) -> None:
    """All but the target. Raises Refused."""
    if not method or re.fullmatch(REFUSED_METHODS, method):
        raise Refused(REFUSED_METHODS_SAY)
    for name, value in headers:
        if "_" in name:
            raise Refused(f"the header {name} has an underscore in its name, which apps may take for '-'")
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise Refused(f"the header {name!r} is not one of HTTP")


def header_value(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    """All lines of that name (lower case), joined by commas as Envoy does; None where there is none."""
    found = [value.strip(" \t") for key, value in headers if key.lower() == name]
    return ",".join(found) if found else None


def normalised(target: str) -> str:
    """The path of a request target in origin form (``/a/../b?c``), normalised and without the query (``/b``).

    Raises Refused.
    """
    strange = _NOT_IN_A_TARGET.search(target)
    if strange is not None:
        raise Refused(f"{strange[0]!r} can't stand in a request's path or query")
    if not target.startswith("/"):
        raise Refused("the path does not start with '/'")
    path = target.partition("?")[0]
    escaped = _ESCAPED_SLASH.search(path)
    if escaped is not None:
        raise Refused(f"the path has an escaped slash or backslash ({escaped[0]})")
    if "%00" in path:
        raise Refused("the path has an escaped zero byte (%00)")
    if _NESTED.search(path):
        raise Refused(f"the path has {_ESCAPED_TWICE}")
    path = _DOTS_WITH_PARAMETERS.sub(r"\1", path)
    path = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), path.replace("\\", "/"))
    path = _TO_ESCAPE.sub(lambda found: f"%{ord(found[0]):02X}", path)
    path = _merged(_without_dots(path))
    for one in REFUSED:
        if one.hint in path and re.fullmatch(one.expression, path):
            raise Refused(f"the path has {one.says}")
    return path


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4."""
    kept: list[str] = []
    segments = path[1:].split("/")
    for number, segment in enumerate(segments, 1):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
            continue
        if number == len(segments):
            kept.append("")  # a directory: what is left ends with a slash
    return f"/{'/'.join(kept)}"


def _merged(path: str) -> str:
    if "//" not in path:
        return path
    inner = "/".join(filter(None, path.split("/")))
    return f"/{inner}{'/' if path.endswith('/') else ''}"  # of slashes alone two are left, as Envoy has it

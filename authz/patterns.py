"""Path patterns of policies ▸ what is compared with a path as `paths.normalised` has it.

Two readings of each pattern, because apps do not agree on what a path says. The *narrow* one holds of paths that every
app takes for what the pattern says: by it an ALLOW lets in. The *wide* one holds of all that some app may take for it:
by it a DENY refuses. They differ in path parameters (`/secret;x=1/a` is `/secret/a` to a servlet container, and itself
to others) and in what those leave over (`/;x/secret`).

An escape means what it stands for, in patterns and in paths: `/a:b` and `/a%3Ab` are one. Envoy undoes only those of
letters, digits and `-._~`, so the others may stand there in either spelling.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal


@dataclass(frozen=True, slots=True)
class Text:
    """How one value is compared, the same way by Envoy (RE2) and here. A prefix, suffix or part is never empty.

    hints: of a `regex`; only what contains one of them can match. Asked first, it saves the regular expression.
    """

    how: Literal["exact", "prefix", "suffix", "contains", "regex"]
    value: str
    hints: tuple[str, ...] = ()

    def holds(self, text: str) -> bool:
        match self.how:
            case "exact":
                return text == self.value
            case "prefix":
                return text.startswith(self.value)
            case "suffix":
                return text.endswith(self.value)
            case "contains":
                return self.value in text
            case "regex":
                asked = not self.hints or any(hint in text for hint in self.hints)
                return asked and _compiled(self.value).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.ASCII)


ONE_SEGMENT, ANY_SEGMENTS = "{*}", "{**}"

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# What stands in a normalised path as it is, or escaped if the client liked (RFC 3986, 2.2).
_EITHER = frozenset(b"!$&'()*+,;=:@[]")
_TOKEN = re.compile(r"%([0-9a-fA-F]{2})|(.)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9._~/-]*")

# No parameter from the first character on, in any spelling; and none at all.
_NO_PARAMETER_FIRST = r"(?:[^/;%]|%[^3/]|%3[^bB/])"
_NO_PARAMETERS = rf"{_NO_PARAMETER_FIRST}*"
_PARAMETERS = r"(?:(?:;|%3[bB])[^/]*)?"
# Between two segments, segments that have nothing but parameters, or nothing.
_SLASHES = rf"/(?:{_PARAMETERS}/)*"
_HINTS = (";", "%3", "//")


def path_texts(pattern: str, *, wide: bool) -> tuple[Text, ...]:
    """Any of them holds where `pattern` does. Of `PathPattern`s (schemas/objects/authorization.py)."""
    if pattern in ("*", "/*"):
        return (Text("prefix", "/"),)
    body, how = (pattern[:-1], "prefix") if pattern.endswith("/*") else (pattern, "exact")
    if not _PLAIN.fullmatch(body):
        return (Text("regex", _expression(pattern, wide=wide)),)
    literal = Text("prefix" if how == "prefix" else "exact", body)
    return (literal, Text("regex", _expression(pattern, wide=True), _HINTS)) if wide else (literal,)


def _expression(pattern: str, *, wide: bool) -> str:
    if pattern.startswith("*"):
        return _suffix(pattern[1:], wide=wide)
    return "".join(_segments(pattern, wide=wide))


def _suffix(rest: str, *, wide: bool) -> str:
    if rest.startswith("/"):
        return ".*" + "".join(_segments(rest, wide=wide))
    last, slash, more = rest.partition("/")
    # `/admin;x.css` is `/admin` to some: what ends a segment must not be a parameter's end.
    before = "[^/]*" if wide else _NO_PARAMETERS
    after = _PARAMETERS if wide else ""
    return f".*/{before}{_literal(last)}{after}{''.join(_segments(slash + more, wide=wide))}"


def _segments(path: str, *, wide: bool) -> Iterator[str]:
    """`path`: empty, or a slash and segments. `/a/*` ends with a segment `*`."""
    slash, after = (_SLASHES, _PARAMETERS) if wide else ("/", "")
    for segment in path.split("/")[1:]:
        if segment == ANY_SEGMENTS:
            yield "(?:/.*)?"
        elif segment == "*":
            yield f"{slash}.*"
        elif segment == ONE_SEGMENT:
            yield slash + ("[^/]+" if wide else f"{_NO_PARAMETER_FIRST}[^/]*")
        else:
            yield f"{slash}{_literal(segment)}{after}"


def _literal(text: str) -> str:
    return "".join(_byte(byte) for byte in _bytes(text))


def _bytes(text: str) -> Iterator[int]:
    for found in _TOKEN.finditer(text):
        yield from [int(found[1], 16)] if found[1] is not None else found[2].encode()


def _byte(byte: int) -> str:
    if byte in _UNRESERVED:
        return re.escape(chr(byte))
    escaped = f"(?i:%{byte:02x})"
    return f"(?:{re.escape(chr(byte))}|{escaped})" if byte in _EITHER else escaped

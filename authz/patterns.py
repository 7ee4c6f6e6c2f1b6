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
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple


class Text(NamedTuple):
    """How one value is compared, the same way by Envoy (RE2) and here. A prefix, suffix or part is never empty.

    cidr: an address in a block. present: whatever it is; what is absent never holds.

    hints: of a `regex`; only what contains one of them can match. Asked first, it saves the regular expression.
    """

    how: Literal["exact", "prefix", "suffix", "contains", "regex", "present", "cidr"]
    value: str = ""
    hints: tuple[str, ...] = ()

    def holds(self, text: str | None) -> bool:
        if text is None:
            return False
        match self.how:
            case "present":
                return True
            case "cidr":
                return ip_address(text) in _block(self.value)
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


@lru_cache(maxsize=1024)
def _block(value: str) -> IPv4Network | IPv6Network:
    return ip_network(value, strict=False)


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


def host_texts(pattern: str, *, wide: bool) -> tuple[Text, ...]:
    """Of the authority of a request, whatever its port: `orders.shop`, `*.example.com`."""
    name = re.escape(pattern.removeprefix("*."))
    if pattern.startswith("*."):
        name = ("[^,]*" if wide else "[a-z0-9._-]+") + rf"\.{name}"
    # The name's final dot is optional (RFC 3986, 3.2.2), and of two hosts some apps take the first, some the last.
    expression = rf"(?i)(.*[,@])?{name}\.?([:,].*)?" if wide else rf"(?i){name}(:[0-9]+)?"
    return (Text("regex", expression),)


# What apps take away around a member of a list: blanks (RFC 9110, 5.6.1), and some of them those beyond ASCII. Written
# as what it is not: Envoy's RE2 has bytes before it, and reports and offline requests have characters.
_AROUND = r"[^!-\x7f\x00-\x08\x0a-\x1f]*"


def header_texts(value: str, *, wide: bool) -> tuple[Text, ...]:
    """Of a header's values, as one text with commas in between; Envoy's RE2 reads it byte by byte.

    Widely, one of them is enough; narrowly, what begins or ends so does it in all of them.
    """
    bare = value.strip("*")
    if not bare:
        return (Text("present"),)
    before, after = value.startswith("*"), value.endswith("*")
    literal = re.escape(bare)
    if before and after:
        return (Text("contains", bare),)
    if wide:
        literal = f"{_AROUND},{_AROUND}".join(re.escape(one.strip(" ")) for one in bare.split(","))
        start = ".*" if before else f"(.*,)?{_AROUND}"
        end = ".*" if after else f"{_AROUND}(,.*)?"
        return (Text("regex", f"(?s){start}{literal}{end}"),)
    if before:
        return (Text("regex", rf"[^,]*{literal}([ \t]*,[^,]*{literal})*"),)
    if after:
        return (Text("regex", rf"{literal}[^,]*(,[ \t]*{literal}[^,]*)*"),)
    return (Text("exact", bare),)


def grpc_pattern(service: str | None, method: str | None) -> str:
    """The path pattern of a gRPC method."""
    if method is None:
        return f"/{service}/*" if service is not None else f"/{ONE_SEGMENT}/{ONE_SEGMENT}"
    return f"/{service or ONE_SEGMENT}/{method}"

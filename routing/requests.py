"""A request as Envoy's routes see it: its path normalised, all else as it was sent. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from schemas.errors import InvalidInput, Problem
from schemas.http_requests import Refused, check_head, header_value, normalised

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AUTHORITY = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # no backslash, nor what `urlsplit` drops in silence


@dataclass(frozen=True, slots=True)
class Request:
    """`host` in lower case, without port. `path` normalised, without query. `query` not decoded: Envoy compares bytes.

    Header names in lower case. `refused`: why it is answered 400 before any route is asked; then `path` means nothing.
    """

    host: str
    method: str = "GET"
    path: str = "/"
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    refused: str = ""

    def header(self, name: str) -> str | None:
        """All lines of that name, joined by commas as Envoy does; None where there is none."""
        return header_value(self.headers, name.lower())

    def parameter(self, name: str) -> str | None:
        """The first of that name."""
        return next((value for key, value in self.query if key == name), None)

    @property
    def is_grpc(self) -> bool:
        kind = self.header("content-type") or ""
        return kind == "application/grpc" or kind.startswith("application/grpc+")


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL names, apart from the request: `port` None where it names none."""

    host: str
    port: int | None


def parse_url(
    method: str, url: str, headers: Iterable[tuple[str, str]] = (), *, outside: bool = False
) -> tuple[Address, Request]:
    """``http://orders.shop:8080/a?b=c``, or without scheme. Raises InvalidInput for what no client could send.

    What a client can send and Envoy refuses is a Request that says so. outside: as a client of a gateway asks, who
    names its port or means that of the scheme.
    """
    written = _SCHEME.match(url)
    scheme = written[1].lower() if written else "http"
    authority, target = _split(url[written.end() :] if written else url)
    try:
        parts = urlsplit(f"//{authority}")
        port = parts.port
    except ValueError as error:
        raise _bad(url, str(error)) from error
    if outside and scheme in ("http", "https"):
        port = port or (443 if scheme == "https" else 80)
    elif scheme not in ("http", "grpc"):
        raise _bad(url, f"the scheme {scheme!r}: inside of the mesh apps speak http to their sidecar")
    if not parts.hostname or not _AUTHORITY.fullmatch(authority):
        raise _bad(url, "it names no host")
    if "#" in target:
        raise _bad(url, "a fragment (#) is never sent")
    named = tuple((name.lower(), value) for name, value in headers)
    host = next((value for name, value in named if name == "host"), authority.rpartition("@")[2])
    path, refused = "/", ""
    try:
        check_head(method, named)
        if method != "CONNECT":  # which has no path (RFC 9110, 9.3.6)
            path = normalised(target)
        elif parts.port is None:
            raise Refused("a CONNECT names host and port")
    except Refused as error:
        refused = str(error)
    request = Request(
        host=host_of(host),
        method=method,
        path=path,
        query=_parameters(target.partition("?")[2]),
        headers=tuple((name, value) for name, value in named if name != "host"),
        refused=refused,
    )
    return Address(parts.hostname, port), request


def host_of(authority: str) -> str:
    """``Orders.Shop:8080`` -> ``orders.shop``."""
    return re.sub(r":[0-9]*\Z", "", authority).lower()


def _split(rest: str) -> tuple[str, str]:
    """What follows the scheme: authority, and the target as a client sends it."""
    end = next((index for index, one in enumerate(rest) if one in "/?#"), len(rest))
    target = rest[end:]
    return rest[:end], target if target.startswith("/") else f"/{target}"


def _parameters(query: str) -> tuple[tuple[str, str], ...]:
    """In their order, not decoded; a parameter without ``=`` has the empty value (Envoy, QueryParameterMatcher)."""
    pairs = (one.partition("=") for one in query.split("&"))
    return tuple((name, value) for name, _, value in pairs) if query else ()


def _bad(url: str, why: str) -> InvalidInput:
    return InvalidInput(Problem(f"URL {url[:200]!r}", why, remedy="write http://<service>.<namespace>[:port]/path"))

"""One match of a rule in one form for all route kinds, and whether a request fulfils it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from routing import expressions
from routing.requests import Request
from schemas.objects.grpc_route import GRPCRouteMatch
from schemas.objects.http_route import HTTPRouteMatch
from schemas.objects.route_filters import HeaderMatch


@dataclass(frozen=True, slots=True)
class Text:
    """What one header or query parameter must be."""

    name: str
    value: str
    regex: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'~' if self.regex else '='} {self.value}"

    def fits(self, value: str | None) -> bool:
        if value is None:
            return False
        return bool(expressions.compiled(self.value).fullmatch(value)) if self.regex else value == self.value


@dataclass(frozen=True, slots=True)
class Path:
    """`prefix` goes by whole segments and has no slash at its end; the empty one is any path."""

    kind: Literal["exact", "prefix", "regex"]
    value: str

    def __str__(self) -> str:
        return {"exact": self.value, "prefix": f"{self.value}/*", "regex": f"~ {self.value}"}[self.kind]

    def fits(self, path: str) -> bool:
        match self.kind:
            case "exact":
                return path == self.value
            case "prefix":
                return path == self.value or path.startswith(f"{self.value}/")
            case "regex":
                return bool(expressions.compiled(self.value).fullmatch(path))


ANY_PATH = Path("prefix", "")


@dataclass(frozen=True, slots=True)
class Condition:
    """Everything that is given must match. `host`: ``*.example.com`` for all below it."""

    host: str | None = None
    path: Path = ANY_PATH
    method: str | None = None
    headers: tuple[Text, ...] = ()
    query: tuple[Text, ...] = ()
    grpc: bool = False
    """Only gRPC calls, told by their content type."""

    def __str__(self) -> str:
        return ", ".join(self._words()) or "anything"

    def _words(self) -> Iterator[str]:
        if self.host is not None:
            yield f"host {self.host}"
        if self.grpc:
            yield "gRPC"
        if self.method is not None:
            yield f"method {self.method}"
        if self.path != ANY_PATH:
            yield f"path {self.path}"
        yield from (f"header {one}" for one in self.headers)
        yield from (f"query {one}" for one in self.query)

    def failure(self, request: Request) -> str | None:
        """The first thing that does not match, in words; None where all does."""
        if self.host is not None and not host_fits(self.host, request.host):
            return f"the host is {request.host}, not {self.host}"
        if self.grpc and not request.is_grpc:
            return "it is no gRPC call (content-type: application/grpc)"
        if self.method is not None and request.method != self.method:
            return f"the method is {request.method}, not {self.method}"
        if not self.path.fits(request.path):
            return f"the path is not {self.path}"
        for header in self.headers:
            if not header.fits(request.header(header.name)):
                return f"the header is not {header}"
        for parameter in self.query:
            if not parameter.fits(request.parameter(parameter.name)):
                return f"the query parameter is not {parameter}"
        return None


ANYTHING = Condition()


def host_fits(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) and host != pattern[1:] if pattern.startswith("*.") else host == pattern


def of_http(match: HTTPRouteMatch, host: str | None) -> Condition:
    return Condition(
        host=host,
        path=_http_path(match),
        method=match.method,
        headers=_headers(match.headers),
        query=tuple(Text(one.name, one.value, one.type == "RegularExpression") for one in match.query_params),
    )


def of_grpc(match: GRPCRouteMatch, host: str | None) -> Condition:
    return Condition(host=host, path=_grpc_path(match), headers=_headers(match.headers), grpc=True)


def _http_path(match: HTTPRouteMatch) -> Path:
    match match.path.type:
        case "Exact":
            return Path("exact", match.path.value)
        case "PathPrefix":
            return Path("prefix", match.path.value.rstrip("/"))
        case "RegularExpression":
            return Path("regex", match.path.value)


def _grpc_path(match: GRPCRouteMatch) -> Path:
    """A gRPC call's path is ``/<service>/<method>`` (gRPC over HTTP/2, Requests)."""
    wanted = match.method
    if wanted is None:
        return ANY_PATH
    if wanted.type == "Exact" and wanted.service is not None and wanted.method is not None:
        return Path("exact", f"/{wanted.service}/{wanted.method}")
    if wanted.type == "Exact" and wanted.service is not None:
        return Path("prefix", f"/{wanted.service}")
    if wanted.type == "Exact":
        return Path("regex", f"/[^/]+/{quoted(wanted.method or '')}")
    service = "[^/]+" if wanted.service is None else f"(?:{wanted.service})"
    method = "[^/]+" if wanted.method is None else f"(?:{wanted.method})"
    return Path("regex", f"/{service}/{method}")


def quoted(text: str) -> str:
    """An expression for that text alone."""
    return "".join(one if one.isalnum() or one == "_" else f"\\{one}" for one in text)


def _headers(matches: tuple[HeaderMatch, ...]) -> tuple[Text, ...]:
    return tuple(Text(one.name.lower(), one.value, one.type == "RegularExpression") for one in matches)

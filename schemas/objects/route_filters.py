"""What a route does with a request beside sending it somewhere: as in Gateway API v1, `Fault` as in Envoy Gateway.

A filter names its `type`, and the field of that name says how.
"""

from typing import Annotated, Literal

import msgspec

from schemas.durations import Duration
from schemas.objects.common import Part, Port
from schemas.objects.route_parts import BackendRef, HeaderName, PreciseHostname

# Bytes. What Envoy takes for all headers of a request is 60 KiB.
HeaderText = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[\t\x20-\x7e]{0,4096}\Z", description="a header value of at most 4096 printable ASCII characters"
    ),
]
MatchType = Literal["Exact", "RegularExpression"]
MatchText = Annotated[
    str, msgspec.Meta(pattern=r"^[\t\x20-\x7e]{1,4096}\Z", description="1 to 4096 printable ASCII characters")
]
RewritePath = Annotated[
    str, msgspec.Meta(pattern=r"^(/[!-~]*)?\Z", max_length=1024, description="a path that starts with /")
]
# RFC 9110, 9.1: a token; upper case is what every registered method is.
HttpMethod = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z-]{0,31}\Z", description="an HTTP method in upper case")]
Percentage = Annotated[float, msgspec.Meta(ge=0, le=100)]


class HeaderMatch(Part, frozen=True, kw_only=True):
    """The name without regard to case. Several lines of one name are judged as one, joined by commas."""

    type: MatchType = "Exact"
    name: HeaderName
    value: MatchText


class HeaderValue(Part, frozen=True, kw_only=True):
    name: HeaderName
    value: HeaderText


class HeaderModifier(Part, frozen=True, kw_only=True):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[HeaderName, ...] = ()


class PathModifier(Part, frozen=True, kw_only=True):
    """`ReplacePrefixMatch` replaces what a `PathPrefix` match matched."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: RewritePath | None = None
    replace_prefix_match: RewritePath | None = None


class RequestRedirect(Part, frozen=True, kw_only=True):
    """Absent fields stay as the request has them."""

    scheme: Literal["http", "https"] | None = None
    hostname: PreciseHostname | None = None
    path: PathModifier | None = None
    port: Port | None = None
    """Absent: the scheme's own where `scheme` is given."""
    status_code: Literal[301, 302, 303, 307, 308] = 302


class UrlRewrite(Part, frozen=True, kw_only=True):
    hostname: PreciseHostname | None = None
    path: PathModifier | None = None


class Fraction(Part, frozen=True, kw_only=True):
    numerator: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    denominator: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 100


class RequestMirror(Part, frozen=True, kw_only=True):
    """A copy goes there too; its answer is thrown away. All requests, or `percent`, or `fraction` of them."""

    backend_ref: BackendRef
    percent: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    fraction: Fraction | None = None


Origin = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9.-]+(:([0-9]{1,5}|\*))?|[a-z][a-z0-9+.-]*://\*)\Z",
        max_length=253,
        description="*, or an origin such as https://shop.example.com, https://*.example.com or https://*",
    ),
]
AnyHeader = Annotated[
    str, msgspec.Meta(pattern=r"^(\*|[A-Za-z0-9!#$%&'+.^_`|~-]{1,256})\Z", description="a header name, or *")
]
AnyMethod = Annotated[
    str, msgspec.Meta(pattern=r"^(\*|[A-Z][A-Z-]{0,31})\Z", description="an HTTP method in upper case, or *")
]


class Cors(Part, frozen=True, kw_only=True):
    """Answers preflights itself, and says in answers which pages may read them (the Fetch standard's CORS protocol)."""

    allow_origins: Annotated[tuple[Origin, ...], msgspec.Meta(min_length=1, max_length=64)]
    allow_credentials: bool = False
    allow_methods: tuple[AnyMethod, ...] = ()
    allow_headers: tuple[AnyHeader, ...] = ()
    expose_headers: tuple[AnyHeader, ...] = ()
    max_age: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 5
    """Seconds for which a browser may keep a preflight's answer."""


class FaultDelay(Part, frozen=True, kw_only=True):
    fixed_delay: Duration
    percentage: Percentage = 100.0


class FaultAbort(Part, frozen=True, kw_only=True):
    """One of the two statuses."""

    http_status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    grpc_status: Annotated[int, msgspec.Meta(ge=0, le=16)] | None = None
    percentage: Percentage = 100.0


class Fault(Part, frozen=True, kw_only=True):
    """Delays and failures on purpose, for requests that carry all of `headers`; for all where that is absent."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    headers: tuple[HeaderMatch, ...] = ()


HttpFilterType = Literal[
    "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "RequestMirror", "CORS", "Fault"
]
GrpcFilterType = Literal["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "Fault"]


class GrpcFilter(Part, frozen=True, kw_only=True):
    type: GrpcFilterType
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_mirror: RequestMirror | None = None
    fault: Fault | None = None


class HttpFilter(Part, frozen=True, kw_only=True):
    type: HttpFilterType
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None
    request_mirror: RequestMirror | None = None
    cors: Cors | None = None
    fault: Fault | None = None


class BackendFilter(Part, frozen=True, kw_only=True):
    """What may differ between the backends of one rule."""

    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier", "URLRewrite"]
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    url_rewrite: UrlRewrite | None = None
    """Of a backend the host name only."""


AnyFilter = HttpFilter | GrpcFilter | BackendFilter
FILTER_FIELDS = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "RequestMirror": "request_mirror",
    "CORS": "cors",
    "Fault": "fault",
}
"""A filter's type -> the attribute that holds it."""

"""`AuthorizationPolicy`: who may do what. Nothing is allowed that no policy allows; a DENY goes before any ALLOW."""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import Name, Object, Part, Port, TargetRef, TrustDomain

# RFC 9110, 9.1: a method is a token, and case-sensitive. Upper case is what every registered method is.
Method = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z-]{0,31}\Z", description="an HTTP method in upper case")]
PathPattern = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^((/([^/?#*]*|\{\*\*?\}))+(/\*)?|/\*|\*[^?#*{}]+)\Z",
        max_length=1024,
        description="an exact path (/orders/7), a prefix of whole segments that ends in /* (/a/*), a suffix (*.css), "
        "or a template (/orders/{*}/items: one segment; /orders/{**}: any number of them)",
    ),
]
Host = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\Z",
        max_length=253,
        description="a host name, or *. and the end of one, without a port",
    ),
]
HeaderName = Annotated[
    str,
    msgspec.Meta(
        # Not what Envoy sets or takes away before rules are asked, nor what a connection is about (RFC 9110, 7.6.1).
        pattern=r"^(?!(?i:x-forwarded-.*|x-envoy-.*|x-request-id|host|connection|keep-alive|te|trailer|transfer-encoding|"
        r"upgrade|proxy-.*|content-length)\Z)[A-Za-z0-9!#$%&'*+.^`|~-]{1,128}\Z",
        description="the name of a header that the caller sets; for the host there is `hosts`",
    ),
]
HeaderValue = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|\*?[!-)+-~]([ -)+-~]*[!-)+-~])?\*?)\Z",
        max_length=1024,
        description="a value, with a * before it, after it, or alone for any",
    ),
]
IpBlock = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-fA-F:.]{2,45}(/[0-9]{1,3})?\Z",
        description="an address, or a block (10.1.0.0/16, 2001:db8::/32)",
    ),
]
GrpcName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*\Z", max_length=256, description="a name as in a .proto file")
]
Principal = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|\*[!-)+-~]+|[!-)+-~]+\*|[!-)+-~]+/[!-)+-~]+)\Z",
        max_length=2048,
        description="issuer/subject of a token, with a * before it, after it, or alone for any",
    ),
]
ClaimKey = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^request\.auth\.claims(\[[^\[\]]{1,128}\]){1,4}\Z",
        description="request.auth.claims[name], of a claim within a claim request.auth.claims[outer][inner]",
    ),
]
ClaimValue = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|\*?[^*]+|[^*]+\*)\Z",
        max_length=1024,
        description="a value, with a * before it, after it, or alone for any",
    ),
]
Identity = Annotated[str, msgspec.Meta(pattern=r"^spiffe://[^\s?#%]+\Z", max_length=2048, description="a SPIFFE ID")]


class Source(Part, frozen=True, kw_only=True):
    """Who calls. Every field that is given must match; within a field, any value; within a `not…`, none."""

    identities: tuple[Identity, ...] | None = None
    not_identities: tuple[Identity, ...] | None = None
    namespaces: tuple[Name, ...] | None = None
    """Of `trustDomains`; where that is absent, of the mesh's own."""
    not_namespaces: tuple[Name, ...] | None = None
    trust_domains: tuple[TrustDomain, ...] | None = None
    not_trust_domains: tuple[TrustDomain, ...] | None = None
    ip_blocks: tuple[IpBlock, ...] | None = None
    """Of the host that opened the connection to the sidecar."""
    not_ip_blocks: tuple[IpBlock, ...] | None = None
    request_principals: tuple[Principal, ...] | None = None
    """Of the request's token, as RequestAuthentication proved it: ``https://issuer.example/alice``."""
    not_request_principals: tuple[Principal, ...] | None = None


class HeaderMatch(Part, frozen=True, kw_only=True):
    """A header that is there, with one of `values` where they are given."""

    name: HeaderName
    values: Annotated[tuple[HeaderValue, ...], msgspec.Meta(min_length=1)] | None = None


class GrpcMatch(Part, frozen=True, kw_only=True):
    """A gRPC method; what is absent is any (Gateway API: GRPCMethodMatch)."""

    service: GrpcName | None = None
    method: GrpcName | None = None


class Operation(Part, frozen=True, kw_only=True):
    """What is called. Every field that is given must match; within a field, any value; within a `not…`, none."""

    methods: tuple[Method, ...] | None = None
    not_methods: tuple[Method, ...] | None = None
    paths: tuple[PathPattern, ...] | None = None
    not_paths: tuple[PathPattern, ...] | None = None
    hosts: tuple[Host, ...] | None = None
    not_hosts: tuple[Host, ...] | None = None
    headers: tuple[HeaderMatch, ...] | None = None
    """All of these."""
    not_headers: tuple[HeaderMatch, ...] | None = None
    """None of these."""
    grpc: tuple[GrpcMatch, ...] | None = None
    ports: tuple[Port, ...] | None = None
    """The service's ports, not the app's."""
    not_ports: tuple[Port, ...] | None = None


class ClaimMatch(Part, frozen=True, kw_only=True):
    """A claim of the request's token, text or a list with a text, that is any of `values`, and none of `not_values`."""

    key: ClaimKey
    values: tuple[ClaimValue, ...] | None = None
    not_values: tuple[ClaimValue, ...] | None = None


class Rule(Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Matches where any of `from` and any of `to` matches; an absent list matches all, an empty one nothing. Of `when`
    all must hold."""

    from_: tuple[Source, ...] | None = None
    to: tuple[Operation, ...] | None = None
    when: tuple[ClaimMatch, ...] = ()


class AuthorizationPolicySpec(Part, frozen=True, kw_only=True):
    target_refs: tuple[TargetRef, ...] | None = None
    """The services it is for; absent: all of its namespace, and in mesh-system all of the mesh."""
    action: Literal["ALLOW", "DENY", "AUDIT"] = "ALLOW"
    """AUDIT: a DENY that refuses nothing and counts what it would have refused."""
    rules: tuple[Rule, ...] = ()


class AuthorizationPolicy(Object, frozen=True, kw_only=True, tag="AuthorizationPolicy"):
    spec: AuthorizationPolicySpec

"""`AuthorizationPolicy`: who may do what. Nothing is allowed that no policy allows; a DENY goes before any ALLOW."""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import Name, Object, Part, Port, TargetRef

# RFC 9110, 9.1: a method is a token, and case-sensitive. Upper case is what every registered method is.
Method = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z-]{0,31}\Z", description="an HTTP method in upper case")]
PathPattern = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^/([^?#*]*|([^?#*]*/)?\*)\Z",
        max_length=1024,
        description="an exact path (/orders/7), or a prefix of whole segments that ends in /* (/orders/*)",
    ),
]
Identity = Annotated[str, msgspec.Meta(pattern=r"^spiffe://[^\s?#%]+\Z", max_length=2048, description="a SPIFFE ID")]


class Source(Part, frozen=True, kw_only=True):
    """Who calls. Every field that is given must match; within a field, any value."""

    identities: tuple[Identity, ...] | None = None
    namespaces: tuple[Name, ...] | None = None


class Operation(Part, frozen=True, kw_only=True):
    """What is called. Every field that is given must match; within a field, any value."""

    methods: tuple[Method, ...] | None = None
    paths: tuple[PathPattern, ...] | None = None
    ports: tuple[Port, ...] | None = None
    """The service's ports, not the app's."""


class Rule(Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Matches where any of `from` and any of `to` matches; an absent list matches all, an empty one nothing."""

    from_: tuple[Source, ...] | None = None
    to: tuple[Operation, ...] | None = None


class AuthorizationPolicySpec(Part, frozen=True, kw_only=True):
    target_refs: tuple[TargetRef, ...] | None = None
    """The services it is for; absent: all of its namespace."""
    action: Literal["ALLOW", "DENY"] = "ALLOW"
    rules: tuple[Rule, ...] = ()


class AuthorizationPolicy(Object, frozen=True, kw_only=True, tag="AuthorizationPolicy"):
    spec: AuthorizationPolicySpec

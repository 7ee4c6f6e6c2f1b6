"""`RequestAuthentication`: whose JSON web tokens (RFC 7519) are believed in requests, and where they stand.

Named as Istio's. A token that is there must be good; that one is there is for an `AuthorizationPolicy` to ask.
"""

from typing import Annotated

import msgspec

from schemas.objects.common import Object, Part, TargetRef

MAX_RULES = 16
MAX_AUDIENCES = 32
MAX_HEADERS = 4
# Some 100 RSA keys; it is in the configuration of each sidecar that the object is for.
MAX_JWKS_CHARACTERS = 64 * 1024
DEFAULT_PREFIX = "Bearer "  # RFC 6750, 2.1

Text = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,1024}\Z", description="printable ASCII without spaces")]
TokenHeader = Annotated[
    str,
    msgspec.Meta(
        # Not what Envoy sets, takes away or goes by itself, nor what holds more than the token.
        pattern=r"^(?!(?i:x-forwarded-.*|x-envoy-.*|x-request-id|host|cookie|connection|keep-alive|te|trailer|upgrade|"
        r"transfer-encoding|proxy-connection|content-length|content-type|expect)\Z)"
        r"[A-Za-z0-9!#$%&'*+.^`|~-]{1,128}\Z",
        description="the name of a header that is the caller's to set",
    ),
]


class FromHeader(Part, frozen=True, kw_only=True):
    """A header whose value is `prefix` and then the token, and nothing else."""

    name: TokenHeader
    prefix: Annotated[
        str, msgspec.Meta(pattern=r"^([!-~]{1,64} )?\Z", description="nothing, or a word and a space: 'Bearer '")
    ] = ""


class JwtRule(Part, frozen=True, kw_only=True):
    """An issuer, and what its tokens must be."""

    issuer: Text
    """The token's `iss`, to the character."""
    audiences: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_AUDIENCES)] = ()
    """Any of them must be in the token's `aud`; none given: `aud` is not looked at."""
    jwks: Annotated[str, msgspec.Meta(max_length=MAX_JWKS_CHARACTERS)]
    """The issuer's public keys, a JWKS document (RFC 7517)."""
    from_headers: Annotated[tuple[FromHeader, ...], msgspec.Meta(max_length=MAX_HEADERS)] = ()
    """None given: ``Authorization: Bearer``."""
    forward_original_token: bool = False
    """Leave the token in the request for the app."""


class RequestAuthenticationSpec(Part, frozen=True, kw_only=True):
    target_refs: tuple[TargetRef, ...] | None = None
    """The services it is for; absent: all of its namespace."""
    jwt_rules: Annotated[tuple[JwtRule, ...], msgspec.Meta(min_length=1, max_length=MAX_RULES)]
    """Those of all objects for a service count together."""


class RequestAuthentication(Object, frozen=True, kw_only=True, tag="RequestAuthentication"):
    spec: RequestAuthenticationSpec

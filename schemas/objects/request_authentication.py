"""`RequestAuthentication`: whose JSON web tokens (RFC 7519) are believed in requests, and where they stand.

Named as Istio's. A token that is there must be good; that one is there is for an `AuthorizationPolicy` to ask.
"""

from typing import Annotated

import msgspec

from schemas.durations import PositiveDuration, milliseconds
from schemas.objects.common import Object, Part, TargetRef

MAX_RULES = 16
MAX_AUDIENCES = 32
MAX_HEADERS = 4
# Some 100 RSA keys; it is in the configuration of each sidecar that the object is for.
MAX_JWKS_CHARACTERS = 64 * 1024
MAX_CA_CHARACTERS = 64 * 1024
DEFAULT_PREFIX = "Bearer "  # RFC 6750, 2.1
DEFAULT_REFRESH = "20m"  # Istio's PILOT_JWT_PUB_KEY_REFRESH_INTERVAL
# Oftener would be a burden for issuers; a key that was withdrawn should not be believed for longer than a day.
MIN_REFRESH_SECONDS, MAX_REFRESH_SECONDS = 60, 24 * 3600

Text = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,1024}\Z", description="printable ASCII without spaces")]
# User info would be a secret in the open; a fragment is sent by nobody.
JwksUri = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^https://[A-Za-z0-9._:\[\]-]+(/[!\"$-\[\]-~]*)?\Z",
        max_length=2048,
        description="an https URL without user info and fragment",
    ),
]
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
    jwks: Annotated[str, msgspec.Meta(max_length=MAX_JWKS_CHARACTERS)] | None = None
    """The issuer's public keys, a JWKS document (RFC 7517). Either they, or `jwksUri`."""
    jwks_uri: JwksUri | None = None
    """Where the issuer publishes them: replicas fetch them from there, sidecars have them from etcd."""
    jwks_ca: Annotated[str, msgspec.Meta(max_length=MAX_CA_CHARACTERS)] | None = None
    """PEM certificates of the CAs to believe about `jwksUri`'s server, in place of those of the replica's host."""
    jwks_refresh_interval: PositiveDuration = DEFAULT_REFRESH
    """How long what was fetched from `jwksUri` counts as new, from 1m to 24h."""
    from_headers: Annotated[tuple[FromHeader, ...], msgspec.Meta(max_length=MAX_HEADERS)] = ()
    """None given: ``Authorization: Bearer``."""
    forward_original_token: bool = False
    """Leave the token in the request for the app."""

    @property
    def refresh_seconds(self) -> int:
        return milliseconds(self.jwks_refresh_interval) // 1000


class RequestAuthenticationSpec(Part, frozen=True, kw_only=True):
    target_refs: tuple[TargetRef, ...] | None = None
    """The services it is for; absent: all of its namespace."""
    jwt_rules: Annotated[tuple[JwtRule, ...], msgspec.Meta(min_length=1, max_length=MAX_RULES)]
    """Those of all objects for a service count together."""


class RequestAuthentication(Object, frozen=True, kw_only=True, tag="RequestAuthentication"):
    spec: RequestAuthenticationSpec

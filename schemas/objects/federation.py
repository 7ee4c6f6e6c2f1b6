"""`TrustBundle`: another trust domain whose identities policies may name, and where its bundle comes from.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md, sections 4 and 5: URL, profile, trust domain
and, for `https_spiffe`, endpoint identity and first bundle are configured, never inferred.
"""

from typing import Annotated, Literal

import msgspec

from schemas.names import SpiffeId
from schemas.objects.authorization import Identity
from schemas.objects.common import Object, Part, TrustDomain

# No user info and no fragment: section 5.1 forbids the one, and nobody sends the other.
BundleUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^https://[^\s/?#@\\]+(/[^\s#\\]*)?\Z", max_length=2048, description="an https URL without user info"
    ),
]


class BundleEndpoint(Part, frozen=True, kw_only=True):
    """Where the other trust domain publishes its bundle, and how the server there proves who it is."""

    url: BundleUrl
    profile: Literal["https_web", "https_spiffe"]
    """By a certificate of the web's CAs for the URL's host; or by an X.509-SVID."""
    endpoint_spiffe_id: Identity | None = None
    """https_spiffe: the exact identity of the server."""
    web_ca: Annotated[str, msgspec.Meta(max_length=64 * 1024)] | None = None
    """https_web: PEM certificates of the CAs to believe, in place of those of the replica's host."""


class TrustBundleSpec(Part, frozen=True, kw_only=True):
    trust_domain: TrustDomain
    bundle_endpoint: BundleEndpoint | None = None
    """Absent: `bundle` is all there is until somebody writes another."""
    bundle: Annotated[str, msgspec.Meta(max_length=256 * 1024)] | None = None
    """The first bundle, a JWKS document; what is fetched takes its place. Another one here starts over from it."""


class TrustBundle(Object, frozen=True, kw_only=True, tag="TrustBundle"):
    spec: TrustBundleSpec

    @property
    def endpoint_id(self) -> SpiffeId | None:
        """Raises InvalidInput for what is no SPIFFE ID."""
        endpoint = self.spec.bundle_endpoint
        if endpoint is None or endpoint.endpoint_spiffe_id is None:
            return None
        return SpiffeId.parse(endpoint.endpoint_spiffe_id)

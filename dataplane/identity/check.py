"""Is what a replica gave, or what the disk kept, an identity that this sidecar can use? Pure.

Nothing is taken on somebody's word: the chain must verify, the ID must be ours, the keys must be those we made.
"""

from cryptography import x509

from dataplane.identity.material import EtcdAccess, Identity, chain_from_pem, key_matches, seconds
from schemas import codec
from schemas.api import mesh_pb2
from schemas.errors import MeshError
from schemas.names import SpiffeId
from schemas.records import TrustBundle
from spiffe.bundle import by_trust_domain
from spiffe.bundle import pem as to_pem
from spiffe.x509 import parse_chain, verify_chain


class UnacceptableIdentity(MeshError):
    """An identity that must not be used; the text says which rule it breaks."""


def from_reply(reply: mesh_pb2.IdentityReply, key_pem: bytes, etcd_key_pem: bytes) -> Identity:
    """A replica's answer with the keys that were made for it. Not checked yet: that is `check`'s.

    Raises UnacceptableIdentity for what can't be read.
    """
    try:
        chain = parse_chain(reply.chain)
        etcd_chain = parse_chain(reply.etcd_chain)
        leaf = chain[0]
        return Identity(
            spiffe_id=SpiffeId.parse(reply.spiffe_id),
            key_pem=key_pem,
            chain_pem=to_pem(chain),
            bundle=codec.decode(reply.trust_bundle, TrustBundle, "trust bundle of the reply"),
            etcd=EtcdAccess(
                endpoints=tuple(reply.etcd_endpoints),
                ca_pem=to_pem(chain_from_pem(reply.etcd_ca, "CA of etcd")),  # nothing but certificates
                cert_pem=to_pem(etcd_chain),
                key_pem=etcd_key_pem,
                expires=seconds(etcd_chain[0].not_valid_after_utc),
            ),
            api_endpoints=tuple(reply.api_endpoints),
            join_endpoints=tuple(reply.join_endpoints),
            key_prefix=reply.key_prefix,
            not_before=seconds(leaf.not_valid_before_utc),
            expires=seconds(leaf.not_valid_after_utc),
        )
    except MeshError as error:
        raise UnacceptableIdentity(f"a replica's answer can't be read: {error}") from error


def check(identity: Identity, expected: SpiffeId | None, now: float) -> None:
    """Raises UnacceptableIdentity unless `identity` can be used at `now` (seconds since 1970) as `expected`.

    expected: None means whichever service it names.
    """
    chain, etcd_chain = _chains(identity)
    if not identity.not_before <= now < identity.expires:
        when = "has expired" if now >= identity.expires else "is not valid yet (is this host's clock right?)"
        raise UnacceptableIdentity(f"the certificate of {identity.spiffe_id} {when}")
    if identity.expires != seconds(chain[0].not_valid_after_utc):
        raise UnacceptableIdentity("the expiry that it claims is not its certificate's")
    try:
        proven = verify_chain(chain, by_trust_domain([identity.bundle]), now)
    except MeshError as error:
        raise UnacceptableIdentity(f"the certificate can't be trusted: {error}") from error
    if proven != identity.spiffe_id:
        raise UnacceptableIdentity(f"the certificate is {proven}'s, not {identity.spiffe_id}'s")
    if proven.service is None:
        raise UnacceptableIdentity(f"{proven} is not the identity of a service")
    if expected is not None and proven != expected:
        raise UnacceptableIdentity(f"it is {proven}'s, this sidecar is to be {expected}")
    if not key_matches(identity.key_pem, chain[0]):
        raise UnacceptableIdentity("its private key does not belong to its certificate")
    _check_etcd(identity.etcd, etcd_chain[0], now)
    if not identity.api_endpoints:
        raise UnacceptableIdentity("it names no replica, so it could never be renewed")
    if not identity.key_prefix.startswith("/"):
        raise UnacceptableIdentity(f"the key prefix {identity.key_prefix!r} does not start with '/'")


def _chains(identity: Identity) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    try:
        chain_from_pem(identity.etcd.ca_pem, "CA of etcd")
        return (
            chain_from_pem(identity.chain_pem, "certificate"),
            chain_from_pem(identity.etcd.cert_pem, "client certificate for etcd"),
        )
    except MeshError as error:
        raise UnacceptableIdentity(str(error)) from error


def _check_etcd(access: EtcdAccess, leaf: x509.Certificate, now: float) -> None:
    if not key_matches(access.key_pem, leaf):
        raise UnacceptableIdentity("the private key for etcd does not belong to its certificate")
    if not seconds(leaf.not_valid_before_utc) <= now < seconds(leaf.not_valid_after_utc):
        raise UnacceptableIdentity("the client certificate for etcd is not valid now")
    if access.expires != seconds(leaf.not_valid_after_utc):
        raise UnacceptableIdentity("the expiry that it claims for etcd is not the certificate's")
    if not access.endpoints:
        raise UnacceptableIdentity("it names no endpoint of etcd")

"""What follows from CA key records: chains, the ids that leaves name, the trust bundle. Pure."""

from collections.abc import Collection, Mapping

import msgspec
from cryptography import x509

from controlplane.ca.facts import active
from controlplane.ca.states import trusted_roots
from schemas.errors import Corrupt, Problem
from schemas.records import JwtAuthority, SealedKey, TrustBundle
from spiffe.key_ids import subject_key_id
from spiffe.x509 import UNREADABLE


def chain_of(record: SealedKey) -> tuple[x509.Certificate, ...]:
    """The key's own certificate and the intermediates above it, without the root. Raises Corrupt."""
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in record.chain)
    except UNREADABLE as error:
        problem = Problem(f"CA key {record.id} ({record.role})", f"its chain can't be read: {error}")
        raise Corrupt(problem) from error


def issuers(keys: Mapping[str, SealedKey]) -> dict[str, str]:
    """Of each issuing key that has a certificate: id to what its leaves name as their authority. Raises Corrupt."""
    return {
        one: subject_key_id(chain_of(key)[0]) for one, key in keys.items() if key.role == "mesh-issuing" and key.chain
    }


def starts(keys: Mapping[str, SealedKey]) -> dict[str, int]:
    """Of each key that has a certificate: when its validity begins. Raises Corrupt."""
    return {one: int(chain_of(key)[0].not_valid_before_utc.timestamp()) for one, key in keys.items() if key.chain}


def bundle_of(
    before: TrustBundle,
    keys: Mapping[str, SealedKey],
    gone: Collection[str] = (),
    new_jwt: tuple[JwtAuthority, ...] = (),
) -> TrustBundle:
    """The bundle that goes with `keys`: one sequence further than `before`, unless it says the same.

    gone: ids of removed keys, new_jwt: public keys of prepared ones; all other JWT keys stay as they are.
    """
    signing = active(keys, "mesh-issuing")
    jwt = {one.kid: one for one in (*before.jwt_authorities, *new_jwt) if one.kid not in gone}
    fresh = msgspec.structs.replace(
        before,
        x509_authorities=trusted_roots(keys.values()),
        jwt_authorities=tuple(jwt[kid] for kid in sorted(jwt)),
        issuing_key_id=issuers(keys).get(signing.id, "") if signing else "",
    )
    return fresh if fresh == before else msgspec.structs.replace(fresh, sequence=before.sequence + 1)

"""Which certificates of etcd's clients are revoked, without a record of any that was issued. Pure.

All that one identity gets within one slot of time have one serial number, which follows from identity and slot. So the
serials of a revoked identity can be listed by whoever knows its name, after a restore of etcd too, and issuing writes
nothing. That they are not unique (RFC 5280, 4.1.2.2) is what is wanted: an identity is revoked, not a certificate, and
etcd compares serials with the list and does nothing else with them.
"""

import datetime
import hashlib
from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.ca.facts import FENCE_SECONDS
from controlplane.ca.sign import Issuer, serial_number
from schemas.names import ServiceRef
from schemas.records import Revocation

SLOT_SECONDS = 3600
# A Mesh object allows no longer life of an SVID, and etcd's certificate lives as long.
MAX_LIFE_SECONDS = 7 * 24 * 3600
# A replica that is cut off from etcd issues for so long to an identity of whose revocation it can't know.
LATE_SECONDS = FENCE_SECONDS + SLOT_SECONDS
# etcd does not look at it; whoever does finds the list stale a day after its last renewal.
NEXT_UPDATE_SECONDS = 24 * 3600


def client_serial(service: ServiceRef, now: float) -> int:
    """Of a certificate that is made now, in seconds since 1970."""
    return _serial(service, int(now) // SLOT_SECONDS)


def _serial(service: ServiceRef, slot: int) -> int:
    text = f"mesh etcd client\0{service.namespace}\0{service.name}\0{slot}"
    return serial_number(hashlib.sha256(text.encode()).digest()[:20])


def revoked_serials(records: Iterable[Revocation], now: float) -> dict[int, int]:
    """Serial to when it was revoked; only of certificates that may still be valid."""
    found: dict[int, int] = {}
    for record in records:
        if not record.revoked:
            continue
        service = ServiceRef(record.namespace, record.service)
        # What was made before is no longer valid, neither then nor now.
        first = max(record.at, int(now)) - MAX_LIFE_SECONDS
        for slot in range(first // SLOT_SECONDS, (record.at + LATE_SECONDS) // SLOT_SECONDS + 1):
            found[_serial(service, slot)] = record.at
    return found


def revocation_list(issuer: Issuer, revoked: Mapping[int, int], now: float) -> bytes:
    """The CRL (RFC 5280, 5) in DER, as etcd's `--client-crl-file` wants it."""
    entries = [
        x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_time(at)).build()
        for serial, at in sorted(revoked.items())
    ]
    builder = (
        # All at once: adding one copies those before it.
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .issuer_name(issuer.certificate.subject)
        .last_update(_time(now))
        .next_update(_time(now + NEXT_UPDATE_SECONDS))
        .add_extension(x509.CRLNumber(int(now)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
        )
    )  # fmt: skip
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)

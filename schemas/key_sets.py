"""Where keys of token issuers are fetched from ▸ under which name they stand in etcd. Pure.

Objects that name the same place share what is fetched from there; believed by other CAs it is another place.
"""

import hashlib

from schemas.keys import KeySetRef
from schemas.records import KeySet, KeySetStatus


def ca_digest(ca: str | None) -> bytes:
    """SHA-256 of PEM certificates; empty for those of the replica's host."""
    return hashlib.sha256(ca.encode()).digest() if ca is not None else b""


def place(uri: str, ca_sha256: bytes) -> KeySetRef:
    return KeySetRef(hashlib.sha256(uri.encode() + b"\n" + ca_sha256).hexdigest())


def place_of(record: KeySet | KeySetStatus) -> KeySetRef:
    return place(record.uri, record.ca_sha256)

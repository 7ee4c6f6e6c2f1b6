"""Where the keys of a token issuer come from: the object itself, or a place that replicas fetch them from. Pure."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from cryptography import x509

from authz.jwks import InvalidKeys, public_keys
from schemas.checking import Fault, Path
from schemas.key_sets import ca_digest, place
from schemas.keys import KeySetRef
from schemas.objects.request_authentication import (
    DEFAULT_REFRESH,
    MAX_REFRESH_SECONDS,
    MIN_REFRESH_SECONDS,
    JwtRule,
)

Fetched = Callable[[KeySetRef], str | None]
"""The JWKS document that is known of a place; None: none is."""


def fetched_from(rule: JwtRule) -> KeySetRef | None:
    """Where its keys are fetched; None: they are in the object."""
    return place(rule.jwks_uri, ca_digest(rule.jwks_ca)) if rule.jwks_uri is not None else None


def keys_in_force(rule: JwtRule, fetched: Fetched) -> str | None:
    """The JWKS document that tokens are verified by; None where there is no good one."""
    where = fetched_from(rule)
    document = rule.jwks if where is None else fetched(where)
    if document is None:
        return None
    try:
        return public_keys(document)
    except InvalidKeys:
        return None


def source_faults(rule: JwtRule, path: Path) -> Iterator[Fault]:
    """What the types do not say. `path`: of the rule."""
    if (rule.jwks is None) == (rule.jwks_uri is None):
        yield Fault(path, "needs either jwks or jwksUri", "give the issuer's public keys, or where it publishes them")
    if rule.jwks is not None:
        try:
            public_keys(rule.jwks, own=True)
        except InvalidKeys as error:
            yield Fault((*path, "jwks"), f"is no usable JWKS document: {error}", "give the issuer's public keys")
    if rule.jwks_uri is not None and not _is_url(rule.jwks_uri):
        yield Fault((*path, "jwksUri"), "is no URL", "write https://HOST/PATH, or https://HOST:PORT/PATH")
    if rule.jwks_ca is not None and rule.jwks_uri is None:
        yield Fault((*path, "jwksCa"), "is for jwksUri, which is not there", "leave it out")
    if rule.jwks_ca is not None and not _holds_certificates(rule.jwks_ca):
        yield Fault((*path, "jwksCa"), "holds no PEM certificates", "give those of the CAs of jwksUri's server")
    if not MIN_REFRESH_SECONDS <= rule.refresh_seconds <= MAX_REFRESH_SECONDS:
        yield Fault((*path, "jwksRefreshInterval"), "is not between 1m and 24h", f"leave it out for {DEFAULT_REFRESH}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _holds_certificates(text: str) -> bool:
    try:
        return bool(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        return False

"""JWT-SVIDs: sign one, and whose is this one. Pure: keys and time are passed in.

https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md, RFC 7515 (JWS), 7518 (JWA), 7519 (JWT).

Written out instead of given to a JWT library: what SPIFFE adds is mostly what must be refused (other header parameters,
other algorithms, duplicate names), libraries have to take all that, and what would be left of one is a call to
`cryptography`.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from schemas.errors import InvalidInput, Unauthenticated
from schemas.names import SpiffeId
from schemas.strict_json import NotStrict, load_object

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

# What fits into the 8 KiB of headers that most servers take; longer ones can't be sent as a bearer token anyway.
MAX_TOKEN_BYTES = 8 * 1024
_MIN_RSA_BITS = 2048  # RFC 7518, 3.3
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_HEADER_PARAMETERS = frozenset({"alg", "kid", "typ"})


class InvalidToken(Unauthenticated):
    """Not a JWT-SVID, or one that nobody vouches for, or not for us. The text names the broken rule, not the token."""


class InvalidKey(ValueError):
    """Not a public key that can verify JWT-SVIDs."""


@dataclass(frozen=True, slots=True)
class _Algorithm:
    """RFC 7518, 3.1. `curve` for ECDSA; RSA has none, and PSS tells its two schemes apart."""

    hash: hashes.HashAlgorithm
    curve: type[ec.EllipticCurve] | None = None
    pss: bool = False

    def matches(self, key: PublicKey) -> bool:
        if self.curve is None:
            return isinstance(key, rsa.RSAPublicKey)
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, self.curve)


ALGORITHMS: Mapping[str, _Algorithm] = {
    "RS256": _Algorithm(hashes.SHA256()),
    "RS384": _Algorithm(hashes.SHA384()),
    "RS512": _Algorithm(hashes.SHA512()),
    "ES256": _Algorithm(hashes.SHA256(), ec.SECP256R1),
    "ES384": _Algorithm(hashes.SHA384(), ec.SECP384R1),
    "ES512": _Algorithm(hashes.SHA512(), ec.SECP521R1),
    "PS256": _Algorithm(hashes.SHA256(), pss=True),
    "PS384": _Algorithm(hashes.SHA384(), pss=True),
    "PS512": _Algorithm(hashes.SHA512(), pss=True),
}
CURVES: Mapping[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}


@dataclass(frozen=True, slots=True)
class Verified:
    """Who presents a token, and all that it claims."""

    spiffe_id: SpiffeId
    claims: Mapping[str, Any]


# -- keys


def load_public_key(der: bytes) -> PublicKey:
    """A SubjectPublicKeyInfo. Raises InvalidKey for what no algorithm of JWT-SVID 2.1 verifies with."""
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidKey("not a public key in DER") from error
    return check_public_key(key)


def check_public_key(key: object) -> PublicKey:
    """`key` if it is on one of the three curves or RSA of 2,048 bits or more. Raises InvalidKey."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, tuple(CURVES.values())):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise InvalidKey(f"neither P-256, P-384, P-521 nor RSA of {_MIN_RSA_BITS} bits or more")


# -- sign


def sign(
    spiffe_id: SpiffeId,
    audience: Sequence[str],
    *,
    issued: int,
    expires: int,
    kid: str,
    key: ec.EllipticCurvePrivateKey,
) -> str:
    """A JWT-SVID in compact form, ES256. `audience` is not empty; times are seconds since 1970."""
    if not audience or not spiffe_id.path:
        raise ValueError("a JWT-SVID names a workload and at least one audience")
    header = {"alg": "ES256", "kid": kid, "typ": "JWT"}
    claims = {"sub": str(spiffe_id), "aud": list(audience), "exp": expires, "iat": issued}
    signed = f"{_encode_json(header)}.{_encode_json(claims)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encode_bytes(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"  # RFC 7518, 3.4


# -- verify


def verify(token: str, audience: str, keys: Mapping[str, Mapping[str, PublicKey]], now: float) -> Verified:
    """Who presents `token` to the validator `audience`, once it is proven (JWT-SVID 2 to 4).

    keys: trust domain to key id to key. Only those of the trust domain of the token's own subject are looked at; none,
    or no entry, means untrusted. now: seconds since 1970. Raises InvalidToken.
    """
    algorithm, kid, signed, payload, signature = _take_apart(token)
    try:
        claims = load_object(payload)
    except NotStrict as error:
        raise InvalidToken(f"the claims of the token are {error}") from error
    subject = _subject(claims)
    candidates = _candidates(keys.get(subject.trust_domain, {}), kid, subject)
    if not any(algorithm.matches(key) and _signed(algorithm, key, signed, signature) for key in candidates):
        raise InvalidToken(f"the token was not signed by a JWT key of {subject.trust_domain}")
    _check_audience(claims, audience)
    _check_times(claims, now)
    return Verified(subject, claims)


def _take_apart(token: str) -> tuple[_Algorithm, str | None, bytes, bytes, bytes]:
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    parts = token.split(".")
    if len(parts) != 3:
        raise InvalidToken("not a JWS in compact form: three parts with two dots are expected")
    header, payload, signature = map(decode_bytes, parts)
    algorithm, kid = _read_header(header)
    return algorithm, kid, f"{parts[0]}.{parts[1]}".encode(), payload, signature


def _read_header(data: bytes) -> tuple[_Algorithm, str | None]:
    try:
        header = load_object(data)
    except NotStrict as error:
        raise InvalidToken(f"the header of the token is {error}") from error
    name = header.get("alg")
    algorithm = ALGORITHMS.get(name) if isinstance(name, str) else None
    if algorithm is None:
        raise InvalidToken(f"the token's alg is not one of {', '.join(ALGORITHMS)}")
    if header.keys() - _HEADER_PARAMETERS:
        raise InvalidToken("the token's header has other parameters than alg, kid and typ")
    if header.get("typ", "JWT") not in ("JWT", "JOSE"):
        raise InvalidToken("the token's typ is neither JWT nor JOSE")
    kid = header.get("kid")
    if "kid" in header and not isinstance(kid, str):
        raise InvalidToken("the token's kid is no text")
    return algorithm, kid


def _subject(claims: Mapping[str, Any]) -> SpiffeId:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise InvalidToken("the token has no sub claim that is text")
    try:
        identity = SpiffeId.parse(subject)
    except InvalidInput as error:
        raise InvalidToken(f"the token's sub is not a SPIFFE ID: {error}") from error
    if not identity.path:
        raise InvalidToken(f"the token's sub, {identity}, names a trust domain, not a workload")
    return identity


def _candidates(keys: Mapping[str, PublicKey], kid: str | None, subject: SpiffeId) -> Sequence[PublicKey]:
    if not keys:
        raise InvalidToken(f"{subject} is not trusted: there is no JWT key of trust domain {subject.trust_domain}")
    if kid is None:  # JWT-SVID 2.2: kid is optional
        return tuple(keys.values())
    if kid not in keys:
        raise InvalidToken(f"{subject.trust_domain} has no JWT key with the token's kid")
    return (keys[kid],)


def _signed(algorithm: _Algorithm, key: PublicKey, signed: bytes, signature: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            size = (key.curve.key_size + 7) // 8
            if len(signature) != 2 * size:
                return False
            r, s = (int.from_bytes(part, "big") for part in (signature[:size], signature[size:]))
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm.hash))
        elif algorithm.pss:  # RFC 7518, 3.5: the salt is as long as the hash
            scheme = padding.PSS(padding.MGF1(algorithm.hash), algorithm.hash.digest_size)
            key.verify(signature, signed, scheme, algorithm.hash)
        else:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm.hash)
    except (InvalidSignature, ValueError):
        return False
    return True


def _check_audience(claims: Mapping[str, Any], audience: str) -> None:
    claimed = claims.get("aud")
    values = [claimed] if isinstance(claimed, str) else claimed
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        raise InvalidToken("the token has no aud claim of one or more texts")
    if not audience or audience not in values:
        raise InvalidToken("the token is not for this audience")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    expires = _time(claims, "exp")
    if expires is None:
        raise InvalidToken("the token has no exp claim")
    if now >= expires:
        raise InvalidToken("the token has expired")
    begins = _time(claims, "nbf")
    if begins is not None and now < begins:
        raise InvalidToken("the token is not valid yet")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """RFC 7519, 2: a NumericDate, seconds since 1970."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidToken(f"the token's {name} is no number of seconds")
    return value


# -- base64url without padding (RFC 7515, 2)


def encode_bytes(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_bytes(text: str) -> bytes:
    """Raises InvalidToken for padding, foreign characters and bits that would be dropped: one text for one value."""
    try:
        if not _BASE64URL.fullmatch(text):
            raise InvalidToken("a part of the token is not base64url without padding")
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise InvalidToken("a part of the token is not base64url without padding") from error
    if encode_bytes(data) != text:
        raise InvalidToken("a part of the token is not the shortest base64url of its value")
    return data


def _encode_json(value: object) -> str:
    return encode_bytes(json.dumps(value, separators=(",", ":")).encode())

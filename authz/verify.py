"""A token of a request ▸ its claims, or what the sidecar answers. Pure: the time, seconds since 1970, is passed in.

As Envoy's JWT filter does by the rules of `dataplane.compile.tokens`, in its words where it has words of its own.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from authz.tokens import TOKEN
from schemas.objects.request_authentication import JwtRule
from schemas.strict_json import NotStrict, load_object

# Seconds by which clocks may differ; Envoy's own default, written out since docs tell of it.
CLOCK_SKEW_S = 60
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES: Mapping[str, tuple[str, ec.EllipticCurve]] = {
    "ES256": ("P-256", ec.SECP256R1()),
    "ES384": ("P-384", ec.SECP384R1()),
    "ES512": ("P-521", ec.SECP521R1()),
}
# Of HS there is no key that could fit: `authz.jwks` takes no secrets.
_ALGORITHMS = frozenset({*_CURVES, *(f"{kind}{size}" for kind in ("RS", "PS", "HS") for size in _HASHES), "EdDSA"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """status: of HTTP. `says`: why, as the answer does."""

    status: int
    says: str


def verify(token: str, rules: Iterable[tuple[JwtRule, str | None]], now: float) -> dict[str, Any] | Refusal:
    """The claims of a token that stands where its issuer's rule looks for it.

    rules: all that count for the service, each with its key set in force; None: nobody knows its keys.
    """
    if not re.fullmatch(TOKEN, token):
        return Refusal(401, "Jwt is malformed: it is not HEADER.PAYLOAD.SIGNATURE")
    signed, _, signature = token.rpartition(".")
    try:
        header, claims = (load_object(_bytes(part)) for part in signed.split("."))
        raw = _bytes(signature)
    except (NotStrict, binascii.Error) as error:
        return Refusal(401, f"Jwt is malformed: a part of it is {error}")
    form = _misformed(header, claims)
    if form is not None:
        return form
    if header.get("alg") not in _ALGORITHMS:
        return Refusal(401, f"Jwt header [alg] is not supported: {str(header.get('alg'))[:32]!r}")
    found: Refusal = Refusal(401, "Jwt issuer is not configured")
    for rule, keys in rules:
        if claims.get("iss") != rule.issuer:
            continue
        answer = _fault(rule, claims, now) or _unsigned(header, claims, signed.encode(), raw, keys)
        if answer is None:
            return claims
        found = answer
    return found


def _misformed(header: Mapping[str, Any], claims: Mapping[str, Any]) -> Refusal | None:
    """RFC 7515, 4.1 and RFC 7519, 4.1: what is there has its type."""
    for place, values, names in (("header", header, ("alg", "kid")), ("payload", claims, ("iss", "sub", "jti"))):
        for name in names:
            if name in values and not isinstance(values[name], str):
                return Refusal(401, f"Jwt {place} [{name}] is not a string")
    for name in ("iat", "nbf", "exp"):
        value = claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            return Refusal(401, f"Jwt payload [{name}] is not a number from 0")
    audience = claims.get("aud", [])
    if not isinstance(audience, str) and not (
        isinstance(audience, list) and all(isinstance(one, str) for one in audience)
    ):
        return Refusal(401, "Jwt payload [aud] is neither a string nor a list of strings")
    return None


def _fault(rule: JwtRule, claims: Mapping[str, Any], now: float) -> Refusal | None:
    begins, ends = claims.get("nbf", 0), claims.get("exp", now)
    if begins > now + CLOCK_SKEW_S:
        return Refusal(401, "Jwt not yet valid")
    if now > ends + CLOCK_SKEW_S:
        return Refusal(401, "Jwt is expired")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if rule.audiences and not any(one in rule.audiences for one in audiences):
        return Refusal(403, "Audiences in Jwt are not allowed")
    return None


def _unsigned(
    header: Mapping[str, Any], claims: Mapping[str, Any], signed: bytes, signature: bytes, keys: str | None
) -> Refusal | None:
    if keys is None:
        return Refusal(401, "Jwks remote fetch is failed")
    kid, algorithm = header.get("kid"), header["alg"]
    fitting = [
        key
        for key in json.loads(keys)["keys"]
        if (not kid or key.get("kid") in (None, kid)) and key.get("alg") in (None, algorithm)
    ]
    if not fitting:
        return Refusal(401, "Jwks doesn't have key to match kid or alg from Jwt")
    if "exp" not in claims or not any(_signed_by(key, algorithm, signed, signature) for key in fitting):
        return Refusal(401, "Jwt verification fails")
    return None


def _signed_by(key: Mapping[str, str], algorithm: str, signed: bytes, signature: bytes) -> bool:
    """key: one that `authz.jwks` has written."""
    try:
        match key["kty"], algorithm[:2]:
            case "EC", "ES" if key["crv"] == _CURVES[algorithm][0]:
                curve = _CURVES[algorithm][1]
                half = (curve.key_size + 7) // 8
                if len(signature) != 2 * half:
                    return False
                of = ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), curve).public_key()
                der = encode_dss_signature(
                    int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
                )
                of.verify(der, signed, ec.ECDSA(_HASHES[algorithm[2:]]))
            case "RSA", "RS" | "PS":
                digest = _HASHES[algorithm[2:]]
                pads = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
                way = pads if algorithm.startswith("PS") else padding.PKCS1v15()
                rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key().verify(
                    signature, signed, way, digest
                )
            case "OKP", "Ed":
                ed25519.Ed25519PublicKey.from_public_bytes(_bytes(key["x"])).verify(signature, signed)
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")


def _bytes(text: str) -> bytes:
    """Of base64url without padding. Raises binascii.Error."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

"""A JWKS document (RFC 7517) ▸ the keys in it that verify tokens. Pure.

Envoy refuses a route whole, with all rules in it, for a key set without any key that it can use: so it is given none
but what was checked here, written anew, and nothing of what else stood there.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from schemas.strict_json import NotStrict, load_object

# What a stranger serves is bounded before it is parsed; and Envoy tries key after key for a token that names none.
MAX_DOCUMENT_BYTES = 64 * 1024
MAX_KEYS = 100
_MAX_KID = 1024
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192  # RFC 7518, 3.3; above it a check takes milliseconds
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], str]] = {
    "P-256": (ec.SECP256R1, "ES256"),
    "P-384": (ec.SECP384R1, "ES384"),
    "P-521": (ec.SECP521R1, "ES512"),
}
# RFC 7518, 6.2.2, 6.3.2 and 6.4.1; RFC 8037, 2.
_SECRET = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_EXPONENTS = frozenset({3, 65537})  # Envoy takes no others; nor an even modulus, which is of no RSA key


class InvalidKeys(ValueError):
    """Not a key set by which any token could be verified; the message says why and quotes no secret."""


def public_keys(document: str | bytes, *, own: bool = False) -> str:
    """A JWKS document of the public keys alone, always the same for the same keys.

    own: written by an operator: then a secret in it is refused too. Of what others serve it is left out, like keys of
    kinds that are not known, or for other uses. Raises InvalidKeys.
    """
    text = document.encode() if isinstance(document, str) else document
    if len(text) > MAX_DOCUMENT_BYTES:
        raise InvalidKeys(f"it is longer than {MAX_DOCUMENT_BYTES} bytes")
    try:
        keys = load_object(text).get("keys")
    except NotStrict as error:
        raise InvalidKeys(f"it is {error}") from error
    if not isinstance(keys, list):
        raise InvalidKeys("it has no array of keys")
    if len(keys) > MAX_KEYS:
        raise InvalidKeys(f"it has more than {MAX_KEYS} keys")
    found = []
    for index, one in enumerate(keys):
        if own and isinstance(one, dict) and (one.get("kty") == "oct" or not _SECRET.isdisjoint(one)):
            raise InvalidKeys(f"keys[{index}] is a secret: only public keys belong here")
        key = _public(one)
        if key is not None and key not in found:
            found.append(key)
    if not found:
        raise InvalidKeys(
            "it has no public key that verifies signatures "
            "(RSA of 2,048 to 8,192 bits with e 3 or 65537, P-256, P-384, P-521, Ed25519)"
        )
    return written(found)


def written(keys: Sequence[Mapping[str, str]]) -> str:
    """Never longer than what it was read from, so that it can be read again."""
    return json.dumps({"keys": list(keys)}, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _public(element: object) -> dict[str, str] | None:
    """None: not a key that we can use."""
    if not isinstance(element, dict) or element.get("use", "sig") != "sig":
        return None
    operations = element.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        made, algorithms = _key(element)
    except (ValueError, OverflowError):
        return None
    for name in ("kid", "alg"):
        said = element.get(name)
        if said is None:
            continue
        if not isinstance(said, str) or not 0 < len(said) <= _MAX_KID or not said.isprintable():
            return None
        made[name] = said
    if made.get("alg", "") not in {"", *algorithms}:
        return None
    return made


def _key(element: Mapping[str, Any]) -> tuple[dict[str, str], frozenset[str]]:
    """With the algorithms it is for. Raises ValueError."""
    match element.get("kty"), element.get("crv"):
        case "RSA", _:
            n, e = _bytes(element, "n"), _bytes(element, "e")
            if int.from_bytes(e, "big") not in _EXPONENTS or not n[-1] & 1:
                raise ValueError("a bad exponent or modulus")
            key = rsa.RSAPublicNumbers(int.from_bytes(e, "big"), int.from_bytes(n, "big")).public_key()
            if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
                raise ValueError("a bad size")
            return {"kty": "RSA", "n": _text(n), "e": _text(e)}, _RSA_ALGORITHMS
        case "EC", str(name) if name in _CURVES:
            curve, algorithm = _CURVES[name]
            x, y = _bytes(element, "x"), _bytes(element, "y")
            ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve()).public_key()
            return {"kty": "EC", "crv": name, "x": _text(x), "y": _text(y)}, frozenset({algorithm})
        case "OKP", "Ed25519":
            x = _bytes(element, "x")
            ed25519.Ed25519PublicKey.from_public_bytes(x)
            return {"kty": "OKP", "crv": "Ed25519", "x": _text(x)}, frozenset({"EdDSA"})
    raise ValueError("of no known kind")


def _bytes(element: Mapping[str, Any], name: str) -> bytes:
    text = element.get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"no {name}")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name} is not base64url") from error


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

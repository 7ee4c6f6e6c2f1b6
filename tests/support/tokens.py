"""An issuer of JSON web tokens, good ones and others."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOBODYS = (
    '{"keys":[{"crv":"P-256","kty":"EC","x":"FlUy6pXdf6WBXra467ZD9v4nAyYeB6lkQZPtW9CjVsI",'
    '"y":"a-wB1DOGxzR1tYPzXefub2SbrnGMV6LtXqOcAkcc0CI"}]}'
)
"""Nobody has the private key: x is the first from SHA-256("hostmesh: no key of this issuer is known") on that is one of
a point of the curve."""


@cache
def _rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Made once: it takes a tenth of a second. `number`: of two issuers, which."""
    return rsa.generate_private_key(65537, 2048)


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int, size: int | None = None) -> str:
    return text(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def rsa_key(n: int, e: int) -> dict[str, str]:
    """A JWK, whether anything can be verified by it or not."""
    return {"kty": "RSA", "n": _number(n), "e": _number(e)}


@dataclass
class Issuer:
    """`number`: of its RSA key."""

    name: str
    number: int = 0
    ec: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ed: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)

    @property
    def rsa(self) -> rsa.RSAPrivateKey:
        return _rsa_key(self.number)

    def jwks(self) -> str:
        """Keys `e`, `r` and `d` (ES256, RS256, EdDSA)."""
        point, number = self.ec.public_key().public_numbers(), self.rsa.public_key().public_numbers()
        raw = self.ed.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        keys = [
            {"kty": "EC", "crv": "P-256", "kid": "e", "x": _number(point.x, 32), "y": _number(point.y, 32)},
            {**rsa_key(number.n, number.e), "kid": "r", "use": "sig"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "d", "alg": "EdDSA", "x": text(raw)},
        ]
        return json.dumps({"keys": keys})

    def token(self, claims: Mapping[str, object], algorithm: str = "ES256", kid: object = "e", **header: object) -> str:
        """`claims` beside `iss`, which one of None there leaves out."""
        whole = {one: value for one, value in {"iss": self.name, **claims}.items() if value is not None}
        said = {"alg": algorithm, **({"kid": kid} if kid is not None else {}), **header}
        signed = f"{text(json.dumps(said).encode())}.{text(json.dumps(whole).encode())}"
        return f"{signed}.{text(self._sign(signed.encode(), algorithm))}"

    def _sign(self, data: bytes, algorithm: str) -> bytes:
        match algorithm:
            case "ES256":
                r, s = decode_dss_signature(self.ec.sign(data, ec.ECDSA(hashes.SHA256())))
                return r.to_bytes(32, "big") + s.to_bytes(32, "big")
            case "RS256":
                return self.rsa.sign(data, padding.PKCS1v15(), hashes.SHA256())
            case "EdDSA":
                return self.ed.sign(data)
            case "HS256":  # with the public key for a secret, in the form that verifiers have it in
                code = hmac.HMAC(
                    self.rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), hashes.SHA256()
                )
                code.update(data)
                return code.finalize()
            case "none":
                return b""
        raise AssertionError(f"no {algorithm} here")

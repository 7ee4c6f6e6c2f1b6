"""New CA keys as records: prepared, sealed, not yet in use. Pure: keys, randomness and time are passed in."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from controlplane.ca import template as templates
from controlplane.ca.check import checked
from controlplane.ca.seal import KeyEncryption, seal_key, seal_secret
from controlplane.ca.sign import Issuer, self_signed, serial_number, signed
from controlplane.ca.states import Role
from controlplane.ca.template import Validity
from schemas.names import SpiffeId
from schemas.records import SealedKey

_ID_BYTES = 8  # ids have only to differ from each other
_SERIAL_BYTES = 20


@dataclass(frozen=True, slots=True)
class Maker:
    """random(n): n unpredictable bytes. now: seconds since 1970. leaf_seconds: how long leaves of this mesh live."""

    trust_domain: str
    kek: KeyEncryption
    random: Callable[[int], bytes]
    now: int
    leaf_seconds: int

    def key_id(self, role: Role) -> str:
        return f"{role}-{self.random(_ID_BYTES).hex()}"

    async def root(self, key: ec.EllipticCurvePrivateKey) -> tuple[SealedKey, Issuer]:
        key_id = self.key_id("mesh-root")
        template = templates.mesh_root(self.trust_domain, key_id, Validity.starting(self.now, templates.ROOT_SECONDS))
        certificate = self_signed(template, key, self._serial())
        issuer = Issuer(checked(certificate, template, key.public_key(), None), key)
        return self._prepared(await seal_key(key_id, "mesh-root", issuer, self.kek)), issuer

    async def issuing(self, key: ec.EllipticCurvePrivateKey, root_id: str, root: Issuer) -> SealedKey:
        """Below `root`, and not beyond its end."""
        key_id = self.key_id("mesh-issuing")
        validity = Validity.starting(self.now, templates.ISSUING_SECONDS)
        end = int(root.certificate.not_valid_after_utc.timestamp())
        validity = Validity(validity.not_before, min(validity.not_after, end))
        template = templates.mesh_issuing(self.trust_domain, key_id, validity)
        certificate = signed(template, key.public_key(), root, self._serial())
        issuer = Issuer(checked(certificate, template, key.public_key(), root.certificate), key)
        sealed = await seal_key(key_id, "mesh-issuing", issuer, self.kek)
        return msgspec.structs.replace(self._prepared(sealed), signed_by=root_id)

    async def requested(self, key: ec.EllipticCurvePrivateKey) -> tuple[SealedKey, bytes]:
        """An issuing key without a certificate, and the request (PKCS#10, DER) that an external CA signs."""
        key_id = self.key_id("mesh-issuing")
        sealed = await seal_secret(key_id, "mesh-issuing", key, self.kek)
        record = SealedKey(
            id=key_id,
            role="mesh-issuing",
            state="prepared",
            chain=(),
            kek_id=self.kek.id,
            nonce=sealed.nonce,
            sealed=sealed.ciphertext,
            not_after=0,
        )
        return self._prepared(record), signing_request(self.trust_domain, key_id, key)

    def _prepared(self, record: SealedKey) -> SealedKey:
        return msgspec.structs.replace(record, state="prepared", since=self.now, leaf_seconds=self.leaf_seconds)

    def _serial(self) -> int:
        return serial_number(self.random(_SERIAL_BYTES))


def signing_request(trust_domain: str, key_id: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Asks for all that an issuing certificate must have; which of it the CA grants, `install` checks."""
    name = templates.mesh_issuing(trust_domain, key_id, Validity(0, 1)).common_name
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNING_ONLY, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(SpiffeId(trust_domain, "")))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(Encoding.DER)


_SIGNING_ONLY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)

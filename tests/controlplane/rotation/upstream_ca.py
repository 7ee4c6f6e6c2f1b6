"""A CA above the mesh, such as a company has: its root signs an intermediate, and that signs what is asked for."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.spiffe.certificates import new_key


class UpstreamCa:
    """now: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        root_key, self.key = new_key(), new_key()
        name, between = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("upstream root", "upstream between")
        )
        self.root = self._signed(
            name, name, root_key.public_key(), [(x509.BasicConstraints(True, None), True)], root_key
        )
        self.intermediate = self._signed(
            between, name, self.key.public_key(), [(x509.BasicConstraints(True, 1), True)], root_key
        )

    def sign(self, csr_der: bytes) -> list[bytes]:
        """Issuing certificate, intermediate and root, the first with the extensions that the request asks for."""
        csr = x509.load_der_x509_csr(csr_der)
        extensions = [(one.value, one.critical) for one in csr.extensions]
        certificate = self._signed(csr.subject, self.intermediate.subject, csr.public_key(), extensions, self.key)
        return [one.public_bytes(Encoding.DER) for one in (certificate, self.intermediate, self.root)]

    def _signed(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        public_key: object,
        extensions: list[tuple[x509.ExtensionType, bool]],
        by: ec.EllipticCurvePrivateKey,
    ) -> x509.Certificate:
        now = datetime.datetime.fromtimestamp(int(self._now()), datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)  # type: ignore[arg-type]  # of a request
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
        )
        kinds = {type(value) for value, _ in extensions}
        if x509.KeyUsage not in kinds:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        return builder.sign(by, hashes.SHA256())

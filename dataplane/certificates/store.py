"""[edge] The last good pairs on disk, so that a start amid a failed renewal goes on with them."""

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509

from dataplane.certificates.check import names_of
from dataplane.compile.workload import KeyPair
from dataplane.lastgood import write_file
from schemas.objects.common import CertificateFiles


class PairStore:
    """In a directory that only the sidecar's user may enter."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, files: CertificateFiles, pair: KeyPair) -> None:
        """Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        # One file, so that the two never come from different renewals.
        whole = len(pair.chain_pem).to_bytes(4, "big") + pair.chain_pem + pair.key_pem
        write_file(self._path(files), whole)

    def load(self, files: CertificateFiles) -> tuple[bytes, bytes] | None:
        """Certificate and key as they were read; None where nothing was saved."""
        try:
            whole = self._path(files).read_bytes()
        except OSError:
            return None
        length = int.from_bytes(whole[:4], "big")
        return whole[4 : 4 + length], whole[4 + length :]

    def pair(self, files: CertificateFiles) -> KeyPair | None:
        """What was saved last, which was good then."""
        saved = self.load(files)
        if saved is None:
            return None
        return KeyPair(*saved, names_of(x509.load_pem_x509_certificates(saved[0])[0]))

    def keep_only(self, wanted: Iterable[CertificateFiles]) -> None:
        """Keys that nobody asks for any more are not ours to hold."""
        kept = {self._path(files).name for files in wanted}
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)

    def _path(self, files: CertificateFiles) -> Path:
        named = f"{files.certificate}\0{files.key}".encode()
        return self._directory / f"{hashlib.blake2b(named, digest_size=16).hexdigest()}.pair"

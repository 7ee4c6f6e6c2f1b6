"""[edge] An upstream signer: a program of the operator's that has issuing keys signed by the CA above the mesh.

It is given the request (PKCS#10, PEM) on its standard input and prints certificates as PEM: the issuing certificate
first, then those above it, the root last. What it prints is checked like a chain that `meshadm ca install` brings.
"""

from collections.abc import Sequence

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.errors import InvalidInput, Problem, Unavailable

# An issuing certificate, a few above it, a root: some KiB each. More is no chain.
MAX_OUTPUT_BYTES = 256 * 1024
SHOWN_CHARACTERS = 400  # of what it says on standard error
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin"
}  # nothing of the replica's own, such as where its credentials lie


class UpstreamSigner:
    """command: absolute path and arguments. seconds: that it may take; a person who must approve needs more."""

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        self._command = tuple(command)
        self._seconds = seconds

    async def sign(self, csr: bytes) -> tuple[bytes, ...]:
        """csr: PKCS#10, DER. The chain, DER. Raises Unavailable, InvalidInput for what is no chain."""
        pem = x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM)
        printed = await self._run(pem)
        if len(printed) > MAX_OUTPUT_BYTES:
            raise self._refused(f"it printed {len(printed)} bytes")
        try:
            certificates = x509.load_pem_x509_certificates(printed)
        except ValueError as error:
            raise self._refused(f"it printed no certificates: {error}") from error
        return tuple(one.public_bytes(Encoding.DER) for one in certificates)

    async def _run(self, stdin: bytes) -> bytes:
        try:
            with trio.fail_after(self._seconds):
                done = await trio.run_process(
                    self._command,
                    stdin=stdin,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env=_ENVIRONMENT,
                )
        except trio.TooSlowError:
            raise Unavailable(f"{self._name} did not end within {self._seconds:g} s") from None
        except OSError as error:
            raise Unavailable(f"{self._name} can't be run: {error.strerror}") from error
        if done.returncode:
            said = bytes(done.stderr).decode(errors="replace").strip()[-SHOWN_CHARACTERS:]
            raise Unavailable(f"{self._name} ended with {done.returncode}: {said or 'it said nothing'}")
        return bytes(done.stdout)

    @property
    def _name(self) -> str:
        return f"the upstream signer {self._command[0]}"

    def _refused(self, what: str) -> InvalidInput:
        remedy = "run it by hand with a request of `meshadm ca csr`"
        return InvalidInput(Problem(self._name, what, remedy=remedy))

"""[edge] An upstream signer: a program of the operator's that has issuing keys signed by the CA above the mesh.

It is given the request (PKCS#10, PEM) on its standard input and prints certificates as PEM: the issuing certificate
first, then those above it, the root last. What it prints is checked like a chain that `meshadm ca install` brings.
"""

import subprocess
from collections.abc import Sequence
from functools import partial

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.errors import InvalidInput, Problem, Unavailable

# An issuing certificate, a few above it, a root: some KiB each. More is no chain.
MAX_OUTPUT_BYTES = 256 * 1024
SHOWN_CHARACTERS = 400  # of what it says on standard error, at its end
_SAID_BYTES = 4 * SHOWN_CHARACTERS  # in UTF-8
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
        try:
            certificates = x509.load_pem_x509_certificates(printed)
        except ValueError as error:
            raise self._refused(f"it printed no certificates: {error}") from error
        return tuple(one.public_bytes(Encoding.DER) for one in certificates)

    async def _run(self, stdin: bytes) -> bytes:
        """What it printed. It is ended as soon as that is too much."""
        printed, said = bytearray(), bytearray()
        start = partial(
            trio.run_process,
            self._command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            env=_ENVIRONMENT,
        )
        process: trio.Process | None = None
        failure: OSError | None = None
        try:
            with trio.fail_after(self._seconds):
                async with trio.open_nursery() as nursery:
                    try:
                        process = await nursery.start(start)
                    except OSError as error:
                        failure = error
                    else:
                        nursery.start_soon(_keep_last, process.stderr, said)
                        await _read_up_to(process.stdout, printed, MAX_OUTPUT_BYTES)
                        if len(printed) > MAX_OUTPUT_BYTES:
                            nursery.cancel_scope.cancel()
        except trio.TooSlowError:
            raise Unavailable(f"{self._name} did not end within {self._seconds:g} s") from None
        if process is None:
            raise Unavailable(f"{self._name} can't be run: {failure.strerror if failure else ''}") from failure
        if len(printed) > MAX_OUTPUT_BYTES:
            raise self._refused(f"it printed more than {MAX_OUTPUT_BYTES} bytes")
        if process.returncode:
            words = said.decode(errors="replace").strip()[-SHOWN_CHARACTERS:]
            raise Unavailable(f"{self._name} ended with {process.returncode}: {words or 'it said nothing'}")
        return bytes(printed)

    @property
    def _name(self) -> str:
        return f"the upstream signer {self._command[0]}"

    def _refused(self, what: str) -> InvalidInput:
        remedy = "run it by hand with a request of `meshadm ca csr`"
        return InvalidInput(Problem(self._name, what, remedy=remedy))


async def _read_up_to(stream: trio.abc.ReceiveStream | None, into: bytearray, limit: int) -> None:
    """To the end, or a little beyond `limit`: what more there is, is not taken out of the pipe."""
    assert stream is not None  # noqa: S101  (it was asked for)
    async for chunk in stream:
        into += chunk
        if len(into) > limit:
            return


async def _keep_last(stream: trio.abc.ReceiveStream | None, into: bytearray) -> None:
    """All of it is taken, and only its end kept."""
    assert stream is not None  # noqa: S101  (it was asked for)
    async for chunk in stream:
        into += chunk
        del into[:-_SAID_BYTES]

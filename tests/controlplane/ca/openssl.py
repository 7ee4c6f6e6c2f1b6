"""OpenSSL's command line as a second opinion on what the CA issues."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

available = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")


def verify(
    directory: Path, chain: Sequence[bytes], roots: Sequence[x509.Certificate], purpose: str, now: float, *extra: str
) -> str:
    """What ``openssl verify`` says of a DER chain (leaf first); ends in ``: OK`` when it believes it."""
    leaf, *rest = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
    for name, content in (
        ("leaf.pem", leaf),
        ("rest.pem", b"".join(rest)),
        ("roots.pem", b"".join(root.public_bytes(Encoding.PEM) for root in roots)),
    ):
        (directory / name).write_bytes(content)
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        purpose,
        "-attime",
        str(int(now)),
        "-CAfile",
        "roots.pem",
    ]
    if rest:
        command += ["-untrusted", "rest.pem"]
    done = subprocess.run([*command, *extra, "leaf.pem"], cwd=directory, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()

"""Which files are read at all, and what is made of them."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtensionOID

from dataplane.certificates import files
from dataplane.certificates.check import BadCertificate, check
from dataplane.certificates.keeper import PATIENCE_S, CertificateKeeper
from dataplane.certificates.store import PairStore
from schemas.objects.common import CertificateFiles
from tests.support.pki import Authority, Leaf

ROOT = Authority.create()
NOW = datetime.datetime.now(datetime.UTC)
FILES = CertificateFiles(certificate="live/a.crt", key="live/a.key")
WANTED = {FILES: "Gateway shop/edge listener https"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "certificates" / "live").mkdir(parents=True)
    return tmp_path / "certificates"


def put(directory: Path, leaf: Leaf, key: bytes | None = None) -> None:
    """As ACME clients do: a new file in place of the old one."""
    for name, content in ((FILES.certificate, leaf.chain_pem), (FILES.key, key or leaf.key_pem)):
        new = directory / f"{name}.new"
        new.write_bytes(content)
        new.rename(directory / name)


# -- no file outside


def _outside(directory: Path) -> None:
    (directory.parent / "secret.key").write_bytes(b"secret")


def _link(directory: Path) -> None:
    (directory / "x").symlink_to(directory.parent / "secret.key")


def _link_to_a_directory(directory: Path) -> None:
    (directory / "x").symlink_to(directory.parent)


def _fifo(directory: Path) -> None:
    os.mkfifo(directory / "x")


def _large(directory: Path) -> None:
    (directory / "x").write_bytes(b"x" * (files.MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("../secret.key", _outside, "leads out of"),
        ("x", _link, "leads out of"),
        ("x/secret.key", _link_to_a_directory, "leads out of"),
        ("/etc/hostname", _outside, "leads out of"),
        ("x", _fifo, "no regular file"),
        ("x", Path.touch, "can't be read"),
        ("live", _outside, "no regular file"),
        ("x", _large, "above"),
        ("nobody", _outside, "can't be read"),
        ("x\0y", _outside, "can't be read"),
    ],
)
def test_no_file_outside_and_nothing_but_files(
    directory: Path, name: str, make: Callable[[Path], None], said: str
) -> None:
    _outside(directory)
    if make is Path.touch:
        (directory / "x").symlink_to(directory / "x")  # round and round
    else:
        make(directory)
    with pytest.raises(BadCertificate, match=said) as caught:
        files.read(directory, name)
    assert "secret" not in str(caught.value).replace(str(directory.parent / "secret"), "").replace("secret.key", "")


def test_links_inside_are_followed(directory: Path) -> None:
    """As certbot lays its files."""
    (directory / "archive").mkdir()
    (directory / "archive" / "a1.crt").write_bytes(b"x")
    (directory / "live" / "a.crt").symlink_to("../archive/a1.crt")
    assert files.read(directory, "live/a.crt") == b"x"


# -- what is good


OTHER = ROOT.issue(dns=["a.test"])
LEAF = ROOT.intermediate().issue(dns=["a.test", "*.A.test"], ip=["192.0.2.1"])


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (LEAF.chain_pem, OTHER.key_pem, "do not belong together"),
        (b"", LEAF.key_pem, "no PEM certificates"),
        (LEAF.chain_pem[:200], LEAF.key_pem, "no PEM certificates"),
        (LEAF.chain_pem, b"", "no private key"),
        (LEAF.chain_pem, LEAF.chain_pem, "no private key"),
        (LEAF.chain_pem, LEAF.key_pem[:100], "no private key"),
    ],
)
def test_bad_pairs(certificate: bytes, key: bytes, said: str) -> None:
    with pytest.raises(BadCertificate, match=said):
        check(certificate, key, NOW)


def unreadable() -> tuple[bytes, bytes]:
    """Certificate and key: PEM and DER are well-formed, the names in it are not."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + datetime.timedelta(hours=1))
        .add_extension(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x03\x99"), False)
    )  # fmt: skip
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), key.private_bytes(*form)


async def test_what_can_not_be_read_to_the_end_is_a_bad_pair(directory: Path, tmp_path: Path) -> None:
    certificate, key = unreadable()
    with pytest.raises(BadCertificate, match="can't be read"):
        check(certificate, key, NOW)
    put(directory, LEAF)
    await Kept(directory, tmp_path).keeper.want(WANTED)
    (directory / FILES.certificate).write_bytes(certificate)
    (directory / FILES.key).write_bytes(key)
    again = Kept(directory, tmp_path)
    await again.keeper.want(WANTED)
    assert again.chain == LEAF.chain_pem, "a start goes on with the last good one"


def test_a_good_pair() -> None:
    found = check(LEAF.chain_pem, LEAF.key_pem, NOW)
    assert found.pair.names == ("a.test", "*.a.test", "192.0.2.1")
    assert LEAF.key_pem.decode() not in repr(found)
    with pytest.raises(BadCertificate, match="expired"):
        check(LEAF.chain_pem, LEAF.key_pem, NOW + datetime.timedelta(hours=2))
    with pytest.raises(BadCertificate, match="not valid before"):
        check(LEAF.chain_pem, LEAF.key_pem, NOW - datetime.timedelta(days=1))


# -- what is kept


class Clock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


class Kept:
    """A keeper that looks when it is told to."""

    def __init__(self, directory: Path | None, tmp_path: Path) -> None:
        self.clock, self.changes = Clock(), 0
        self.keeper = CertificateKeeper(directory, PairStore(tmp_path / "store"), self.clock, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def look(self, after: float = 0) -> list[str]:
        self.clock.now += after
        await self.keeper.look()
        return [str(one) for one in self.keeper.problems()]

    @property
    def chain(self) -> bytes | None:
        found = self.keeper.pairs.get(FILES)
        return found.chain_pem if found else None


async def test_a_renewal_is_taken_and_the_last_good_one_kept(directory: Path, tmp_path: Path) -> None:
    put(directory, LEAF)
    kept = Kept(directory, tmp_path)
    assert kept.keeper.wants(WANTED)
    await kept.keeper.want(WANTED)
    assert not kept.keeper.wants(WANTED)
    assert kept.chain == LEAF.chain_pem
    assert await kept.look() == []
    assert kept.changes == 0, "nothing is new"

    put(directory, OTHER)
    assert await kept.look() == []
    assert (kept.chain, kept.changes) == (OTHER.chain_pem, 1)

    put(directory, LEAF, OTHER.key_pem)  # amid a renewal: the key comes later
    assert await kept.look() == []
    assert kept.chain == OTHER.chain_pem
    [problem] = await kept.look(after=PATIENCE_S)
    assert "Gateway shop/edge listener https" in problem
    assert "live/a.crt with live/a.key: certificate and key do not belong together; keeps the last good one" in problem
    assert kept.chain == OTHER.chain_pem
    put(directory, LEAF)
    assert await kept.look() == []
    assert kept.chain == LEAF.chain_pem


async def test_a_start_amid_a_failed_renewal(directory: Path, tmp_path: Path) -> None:
    put(directory, LEAF)
    await Kept(directory, tmp_path).keeper.want(WANTED)
    (directory / FILES.key).unlink()
    again = Kept(directory, tmp_path)
    await again.keeper.want(WANTED)
    assert again.chain == LEAF.chain_pem
    [problem] = await again.look(after=PATIENCE_S)
    assert "can't be read" in problem
    [stored] = (tmp_path / "store").iterdir()
    assert stored.stat().st_mode & 0o777 == 0o600
    await again.keeper.want({})
    assert not list((tmp_path / "store").iterdir()), "nobody asks for the key any more"
    assert not again.keeper.pairs


async def test_nothing_to_use_is_said_at_once(directory: Path, tmp_path: Path) -> None:
    expired = ROOT.issue(dns=["a.test"], lifetime=datetime.timedelta(minutes=1))
    put(directory, expired)
    kept = Kept(directory, tmp_path)
    kept.clock.now = time.time() + 3600  # a slow run began long ago
    await kept.keeper.want(WANTED)
    [problem] = kept.keeper.problems()
    assert "expired" in str(problem)
    assert "there is none to use" in str(problem)
    assert not kept.keeper.pairs
    nowhere = Kept(None, tmp_path)
    await nowhere.keeper.want(WANTED)
    assert "`certificateDir`" in str(nowhere.keeper.problems()[0])


async def test_who_does_not_renew_is_warned_and_goes_on(directory: Path, tmp_path: Path) -> None:
    leaf = ROOT.issue(dns=["a.test"], lifetime=datetime.timedelta(days=30))
    put(directory, leaf)
    kept = Kept(directory, tmp_path)
    await kept.keeper.want(WANTED)
    assert await kept.look(after=26 * 86400) == []
    [problem] = await kept.look(after=2 * 86400)
    assert "nobody has renewed it" in problem
    await kept.look(after=5 * 86400)
    assert kept.chain == leaf.chain_pem, "clients are told by the certificate itself; others may not mind"

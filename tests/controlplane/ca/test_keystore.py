"""Keys at rest: sealed, bound to their place, opened only with the right key-encryption key from a guarded file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.ca.errors import NoAuthority, TwoActiveKeys
from controlplane.ca.keystore import open_authority, read_kek
from controlplane.ca.seal import CannotUnseal, LocalKey, seal_key, unseal_key, unseal_secret
from controlplane.ca.states import trusted_roots
from schemas import codec
from schemas.errors import Corrupt, InvalidInput
from schemas.records import SealedKey
from tests.controlplane.ca.conftest import MadeCa, make_ca
from tests.spiffe.certificates import Signer, new_key

KEK = bytes(range(32))


def _role(ca: MadeCa, role: str) -> SealedKey:
    return next(record for record in ca.records if record.role == role)


# -- the file


def test_a_kek_is_32_bytes_that_only_its_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    path.write_bytes(KEK)
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert read_kek(path, {}).id == LocalKey(KEK, os.urandom).id
    for mode in (0o640, 0o604, 0o660, 0o644, 0o610):
        path.chmod(mode)
        with pytest.raises(InvalidInput, match=r"others than its owner.*chmod 0600"):
            read_kek(path, {})


def test_systemd_s_credentials_keep_their_own_mode(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    path = credentials / "kek"
    path.write_bytes(KEK)
    path.chmod(0o440)
    assert read_kek(path, {"CREDENTIALS_DIRECTORY": str(credentials)}).id
    outside = tmp_path / "kek"
    outside.write_bytes(KEK)
    outside.chmod(0o440)
    for path in (outside, credentials / ".." / "kek"):
        with pytest.raises(InvalidInput, match="others"):
            read_kek(path, {"CREDENTIALS_DIRECTORY": str(credentials)})
    with pytest.raises(InvalidInput, match="others"):
        read_kek(credentials / "kek", {"CREDENTIALS_DIRECTORY": ""})


@pytest.mark.parametrize("content", [b"", KEK[:-1], KEK + b"\n", b"x" * 1000])
def test_a_kek_of_another_size_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kek"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="bytes, expected 32") as caught:
        read_kek(path, {})
    assert "xxx" not in str(caught.value)


def test_a_missing_kek_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"can't be read.*meshadm init"):
        read_kek(tmp_path / "kek", {})


def test_a_kek_never_shows() -> None:
    assert repr(LocalKey(KEK, os.urandom)) == f"LocalKey(id='{LocalKey(KEK, os.urandom).id}', key=[redacted])"
    assert KEK.hex()[:8] not in LocalKey(KEK, os.urandom).id
    assert LocalKey(KEK, os.urandom).id != LocalKey(KEK[::-1], os.urandom).id


# -- the seal


async def test_what_was_sealed_opens_with_the_same_key_and_place_only() -> None:
    kek = LocalKey(KEK, os.urandom)
    sealed = await kek.seal(b"secret", b"here")
    assert await kek.unseal(sealed, b"here") == b"secret"
    assert b"secret" not in sealed.ciphertext
    assert sealed.nonce != (await kek.seal(b"secret", b"here")).nonce
    with pytest.raises(CannotUnseal):
        await kek.unseal(sealed, b"there")
    with pytest.raises(CannotUnseal):
        await LocalKey(KEK[::-1], os.urandom).unseal(sealed, b"here")


async def test_no_private_key_is_in_a_record(made_ca: MadeCa) -> None:
    for record in made_ca.records:
        key = await unseal_secret(record, made_ca.kek)
        stored = codec.encode(record)
        secret = key.private_numbers().private_value.to_bytes(32, "big")
        assert secret not in stored
        assert key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) not in stored
        assert "redacted" in repr(record)


async def test_another_host_s_kek_is_named(made_ca: MadeCa) -> None:
    with pytest.raises(NoAuthority, match=made_ca.kek.id):
        await open_authority(made_ca.records, LocalKey(KEK, os.urandom))


@pytest.mark.parametrize(
    "changed",
    [
        {"sealed": b"\0" * 100},
        {"sealed": b""},
        {"nonce": b"\0" * 12},
        {"nonce": b""},
        {"id": "mesh-issuing-other"},
        {"role": "mesh-root"},
        {"chain": ()},
        {"chain": (b"\x30\x00",)},
    ],
    ids=lambda changed: "-".join(f"{key}={value!r:.12}" for key, value in changed.items()),
)
async def test_a_record_that_was_changed_does_not_open(made_ca: MadeCa, changed: dict[str, Any]) -> None:
    record = msgspec.structs.replace(_role(made_ca, "mesh-issuing"), **changed)
    with pytest.raises(Corrupt, match="CA key"):
        await unseal_key(record, made_ca.kek)


async def test_records_can_not_trade_places(made_ca: MadeCa) -> None:
    etcd, issuing = _role(made_ca, "etcd-client"), _role(made_ca, "mesh-issuing")
    swapped = msgspec.structs.replace(issuing, sealed=etcd.sealed, nonce=etcd.nonce, chain=etcd.chain)
    with pytest.raises(Corrupt):
        await unseal_key(swapped, made_ca.kek)


async def test_a_certificate_of_another_key_is_noticed(made_ca: MadeCa) -> None:
    other = Signer.root().certificate.public_bytes(Encoding.DER)
    with pytest.raises(Corrupt, match="another key"):
        await unseal_key(msgspec.structs.replace(_role(made_ca, "mesh-issuing"), chain=(other,)), made_ca.kek)


async def test_the_state_may_change_without_a_new_seal(made_ca: MadeCa) -> None:
    record = msgspec.structs.replace(_role(made_ca, "mesh-issuing"), state="retired")
    assert (await unseal_key(record, made_ca.kek)).key


# -- states


async def test_there_is_exactly_one_active_key_of_a_role(made_ca: MadeCa) -> None:
    others = await make_ca(seed=2)
    second = [msgspec.structs.replace(record, kek_id=made_ca.kek.id) for record in others.records]
    with pytest.raises(TwoActiveKeys, match="mesh-issuing"):
        await open_authority([*made_ca.records, *second], made_ca.kek)
    none = [msgspec.structs.replace(record, state="prepared") for record in made_ca.records]
    with pytest.raises(NoAuthority, match="no active mesh-issuing"):
        await open_authority(none, made_ca.kek)
    with pytest.raises(NoAuthority, match="meshadm init"):
        await open_authority([], made_ca.kek)


async def test_prepared_and_retired_roots_are_trusted_and_do_not_sign(made_ca: MadeCa) -> None:
    others = await make_ca(seed=2)
    for state in ("prepared", "retired"):
        extra = [msgspec.structs.replace(record, state=state) for record in others.records]
        opened = await open_authority([*made_ca.records, *extra], made_ca.kek)
        assert opened.issuing.certificate == made_ca.authority.issuing.certificate
        assert set(opened.roots) == {*made_ca.authority.roots, *others.authority.roots}
        assert opened.root == made_ca.authority.root
        assert len(trusted_roots([*made_ca.records, *extra])) == 2


async def test_an_issuing_key_of_no_root_signs_nothing(made_ca: MadeCa) -> None:
    others = await make_ca(seed=2)
    records = [record for record in made_ca.records if record.role != "mesh-root"]
    with pytest.raises(NoAuthority, match="no root"):
        await open_authority([*records, _role(others, "mesh-root")], made_ca.kek)


async def test_sealing_keeps_the_key(made_ca: MadeCa) -> None:
    issuer = made_ca.authority.issuing
    record = await seal_key("mesh-issuing-x", "mesh-issuing", issuer, made_ca.kek)
    assert (record.state, record.not_after) == ("active", int(issuer.certificate.not_valid_after_utc.timestamp()))
    assert (await unseal_key(record, made_ca.kek)).key.private_numbers() == issuer.key.private_numbers()
    assert new_key().private_numbers() != issuer.key.private_numbers()

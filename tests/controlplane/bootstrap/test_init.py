"""`meshadm init` against a real etcd: complete, repeatable, and safe to interrupt anywhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

import trio_etcd
from controlplane.bootstrap import files, run
from controlplane.bootstrap.genesis import MESH_REF, genesis
from controlplane.bootstrap.layout import Layout, Pair
from controlplane.bootstrap.options import InitOptions, InitResult, Step
from controlplane.bootstrap.run import init
from controlplane.ca.errors import NoAuthority
from controlplane.ca.keystore import open_authority, read_kek
from schemas import codec
from schemas.errors import Conflict, InvalidInput, Unavailable
from schemas.keys import Keyspace
from schemas.records import SealedKey
from tests.controlplane.bootstrap.conftest import TRUST_DOMAIN, Site
from tests.support.net import free_port
from trio_etcd.auth import Auth

KEYSPACE = Keyspace()


async def stored(site: Site) -> dict[bytes, tuple[bytes, int]]:
    """Every key of the mesh, with value and mod revision, as a replica sees them."""
    async with site.client(site.layout.replica) as client:
        listing = await client.list(f"{KEYSPACE.prefix}/".encode())
    return {one.key: (one.value, one.mod_revision) for one in listing.kvs}


async def test_from_nothing_to_a_mesh(site: Site) -> None:
    await site.start()
    assert site.layout.ca.key.exists()
    result = await site.init()
    assert result == InitResult(TRUST_DOMAIN, site.layout.config, complete=True, created=True)
    found = await stored(site)
    assert {KEYSPACE.epoch(), KEYSPACE.object(MESH_REF), KEYSPACE.trust_bundle(TRUST_DOMAIN)} < set(found)
    assert len({revision for _, revision in found.values()}) == 1, "one transaction, one revision"
    assert not site.layout.ca.key.exists()

    records = [
        codec.decode(value, SealedKey, "test") for key, (value, _) in found.items() if key.startswith(KEYSPACE.ca())
    ]
    authority = await open_authority(records, read_kek(site.layout.kek, {}))
    assert authority.trust_domain == TRUST_DOMAIN
    assert authority.etcd_ca_pem == site.layout.ca.certificate.read_bytes()


async def test_a_second_run_changes_nothing_and_says_so(site: Site) -> None:
    await site.start()
    await site.init()
    before = await stored(site)
    result = await site.init()
    assert result.complete
    assert not result.created
    assert await stored(site) == before
    assert {step.outcome for step in site.steps} <= {"already", "warning"}
    assert site.outcome(f"mesh {TRUST_DOMAIN}") == "already"
    assert site.outcome("etcd user mesh-replica") == "already"


async def test_files_only_needs_no_etcd(site: Site) -> None:
    result = await site.init(files_only=True)
    assert (result.complete, result.created) == (False, False)
    assert site.layout.ca.key.exists()


async def test_no_secret_is_in_etcd(site: Site) -> None:
    await site.start()
    ca_key = load_pem_private_key(site.layout.ca.key.read_bytes(), None)
    await site.init()
    values = b"".join(value for value, _ in (await stored(site)).values())
    assert ca_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) not in values
    assert site.layout.kek.read_bytes() not in values
    assert b"PRIVATE" not in values


# -- etcd is not there, is another, is bad


async def test_without_etcd_it_says_how_to_start_it_and_goes_on_later(site: Site) -> None:
    with pytest.raises(Unavailable, match=r"etcd --data-dir .*--cert-file .*server\.crt.*--trusted-ca-file .*ca\.crt"):
        await site.init(etcd_timeout_seconds=0.3)
    assert site.layout.ca.key.exists()
    await site.server.start()
    assert (await site.init()).created


async def test_an_etcd_with_other_files_is_told_from_one_that_is_away(site: Site, tmp_path: Path) -> None:
    await site.start()
    with pytest.raises(Unavailable, match="not started with the files of this init"):
        await site.init(directory=tmp_path / "other", etcd_timeout_seconds=2)


async def test_another_trust_domain_is_refused(site: Site) -> None:
    await site.start()
    await site.init()
    before = await stored(site)
    with pytest.raises(InvalidInput, match=r"holds the mesh mesh\.example, not other\.example"):
        await site.init(trust_domain="other.example")
    assert await stored(site) == before


async def test_another_kek_is_refused(site: Site) -> None:
    await site.start()
    await site.init()
    site.layout.kek.write_bytes(bytes(32))
    with pytest.raises(NoAuthority, match="copy the kek"):
        await site.init()


async def test_an_emptied_etcd_is_not_taken_for_a_new_one(site: Site) -> None:
    await site.start()
    await site.init()
    async with site.client(site.layout.replica) as client:
        await client.delete_prefix(f"{KEYSPACE.prefix}/".encode())
    with pytest.raises(InvalidInput, match="restore etcd from a backup"):
        await site.init()


@pytest.mark.fault(26)
async def test_a_known_bad_etcd_is_refused_unless_allowed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.start()
    real = trio_etcd.Client.status

    async def old(self: trio_etcd.Client, endpoint: str | None = None, **options: float) -> trio_etcd.Status:
        return replace(await real(self, endpoint, **options), version="3.5.16")

    monkeypatch.setattr(trio_etcd.Client, "status", old)
    with pytest.raises(Unavailable, match=r"3\.5\.16.*nested transactions.*--allow-known-bad-etcd"):
        await site.init()
    with pytest.raises(trio_etcd.NotFound):
        async with site.client(site.layout.root) as client:
            await Auth(client).roles_of("mesh-replica")
    assert (await site.init(allow_known_bad_etcd=True)).created
    assert site.outcome("etcd at") == "warning"


@pytest.mark.parametrize(
    "changed",
    [
        {"trust_domain": "Mesh"},
        {"trust_domain": ""},
        {"etcd": ()},
        {"etcd": ("localhost",)},
        {"api": "no port"},
        {"prefix": "/mesh/"},
        {"prefix": "/"},
        {"etcd_hosts": ("a b",)},
    ],
    ids=str,
)
async def test_bad_options_are_refused_before_anything_is_written(tmp_path: Path, changed: dict[str, Any]) -> None:
    options = replace(InitOptions(tmp_path / "mesh", TRUST_DOMAIN, files_only=True), **changed)
    with pytest.raises(InvalidInput):
        await init(options, lambda step: None)
    assert not (tmp_path / "mesh").exists()


# -- files that were lost, or are to be replaced


@pytest.mark.parametrize("lost", ["root", "replica", "tooling"])
async def test_a_lost_certificate_is_made_again_by_the_ca_in_etcd(site: Site, lost: str) -> None:
    await site.start()
    await site.init()
    before = await stored(site)
    pair = Pair(site.layout.etcd / f"{lost}.crt", site.layout.etcd / f"{lost}.key")
    old = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    pair.certificate.unlink()
    pair.key.unlink()
    assert not (await site.init()).created
    assert site.outcome(f"{lost}.crt") == "done"
    new = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    assert (new.issuer, new.subject) == (old.issuer, old.subject)
    assert new.serial_number != old.serial_number
    assert not site.layout.ca.key.exists()
    assert await stored(site) == before
    assert {step.outcome for step in await _steps(site)} <= {"already", "warning"}


async def _steps(site: Site) -> list[Step]:
    await site.init()
    return site.steps


async def test_without_any_credential_the_ca_stays_closed(site: Site) -> None:
    await site.start()
    await site.init()
    for pair in (site.layout.root, site.layout.replica):
        pair.key.unlink()
    with pytest.raises(InvalidInput, match=r"root\.crt and .*replica\.crt: are both missing"):
        await site.init()


# -- interrupted, and two at once


class _Killed(BaseException):
    """As if the process ended here."""


async def _dies_after(site: Site, count: int) -> bool:
    """A run that ends right after it reported `count` steps; False if there are not that many, and it completed."""
    left = count

    def report(step: Step) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _Killed

    try:
        await init(site.options, report)
    except* _Killed:
        pass
    return not left


async def test_it_may_die_after_any_step(site: Site) -> None:
    """For every step: a run that dies right after it, then one that must complete, with one mesh as the outcome."""
    await site.start()

    steps = 0
    while await _dies_after(site, steps + 1):
        steps += 1
    assert steps >= 14, "each file, member, user and record is a step"
    found = await stored(site)
    assert len([key for key in found if key.startswith(KEYSPACE.ca())]) == 4
    assert not (await site.init()).created
    assert await stored(site) == found


@pytest.mark.parametrize("call", ["add_user", "add_role", "grant_role", "grant_permission", "enable", "txn", "list"])
async def test_it_may_lose_an_answer_anywhere(site: Site, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The call is carried out and its answer lost: the run fails, saying so, and the next one completes."""
    await site.start()
    owner = trio_etcd.Client if call in ("txn", "list") else Auth
    real = getattr(owner, call)
    lost, once = 0, ("enable", "txn", "list")  # of the others there is more than one

    async def losing(self: object, *arguments: Any, **options: Any) -> Any:
        nonlocal lost
        answer = await real(self, *arguments, **options)
        lost += 1
        if lost <= (1 if call in once else 3):
            raise trio_etcd.DeadlineExceeded("the answer was lost", maybe_applied=True)
        return answer

    monkeypatch.setattr(owner, call, losing)
    with pytest.raises(Unavailable, match="unknown"):
        await site.init()
    while lost < 3 and call not in once:
        with pytest.raises(Unavailable, match="unknown"):
            await site.init()
    monkeypatch.undo()
    await site.init()
    before = await stored(site)
    result = await site.init()
    assert result.complete
    assert not result.created
    assert len([key for key in before if key.startswith(KEYSPACE.ca())]) == 4
    assert await stored(site) == before


async def test_of_parallel_runs_on_copies_of_the_files_one_makes_the_mesh(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.start()
    copies = [tmp_path / f"copy-{index}" for index in range(4)]
    for copy in copies:
        shutil.copytree(site.layout.directory, copy)
    arrived = 0
    all_arrived = trio.Event()
    real = genesis

    async def together(*arguments: Any, **options: Any) -> Any:  # none writes before all have seen no mesh
        nonlocal arrived
        arrived += 1
        if arrived == len(copies):
            all_arrived.set()
        await all_arrived.wait()
        return await real(*arguments, **options)

    monkeypatch.setattr(run, "genesis", together)
    results: list[InitResult] = []

    async def one(copy: Path) -> None:
        results.append(await init(replace(site.options, directory=copy), lambda step: None))

    async with trio.open_nursery() as nursery:
        for copy in copies:
            nursery.start_soon(one, copy)
    assert sorted(result.created for result in results) == [False, False, False, True]
    found = await stored(site)
    assert len([key for key in found if key.startswith(KEYSPACE.ca())]) == 4
    assert not any(Layout(copy).ca.key.exists() for copy in copies)


async def test_two_runs_on_one_directory_do_not_overlap(site: Site) -> None:
    with files.only_one(site.layout), pytest.raises(Conflict):
        await site.init()


async def test_one_member_of_several_may_be_away(site: Site) -> None:
    away = f"127.0.0.1:{free_port()}"
    await site.start()
    assert (await site.init(etcd=(away, site.server.endpoint), etcd_timeout_seconds=3)).created
    assert site.outcome(away) == "warning"

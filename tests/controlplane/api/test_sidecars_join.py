"""The sidecar's own code against a real replica: it joins by what its settings say, and comes back by it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import trio

from dataplane import config
from dataplane.identity.attest import HostCertificate, load_host_certificate
from dataplane.identity.client import ReplicaClient
from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.store import IdentityStore
from schemas.errors import InvalidInput, PermissionDenied, Unauthenticated
from schemas.joinfile import JoinFile
from schemas.names import ServiceRef
from tests.controlplane.access import forget_hosts, trust_hosts, where
from tests.controlplane.api.test_attestation import make_token
from tests.controlplane.replica import TRUST_DOMAIN, Replica
from tests.support.net import eventually, free_port
from tests.support.pki import Authority

CORP = Authority.create("corp hosts")
SECONDS = 20.0


@dataclass
class Host:
    """A sidecar's host: its disk, its files, and its clock, which a test can move."""

    directory: Path
    join: JoinFile | None = None
    certificate: tuple[Path, Path] | None = None
    wanted: ServiceRef | None = None
    offset: float = 0.0

    def clock(self) -> float:
        return time.time() + self.offset

    def with_certificate(self, *dns: str) -> Host:
        paths = CORP.issue("db1", dns=dns).write(self.directory, "host")
        return replace(self, certificate=(paths.cert, paths.key))

    def _read(self) -> HostCertificate:
        assert self.certificate is not None
        assert self.wanted is not None
        return load_host_certificate(*self.certificate, self.wanted)

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[IdentityKeeper]:
        """A sidecar's keeper, for the body; it may have an identity or still be trying."""
        client = ReplicaClient(fraction=lambda: 0.5)
        keeper = IdentityKeeper(
            IdentityStore(self.directory / "state"),
            client,
            lambda: self.join,
            clock=self.clock,
            fraction=lambda: 0.5,
            host=self._read if self.certificate else None,
            wanted=self.wanted,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                with trio.fail_after(SECONDS):
                    yield keeper
                nursery.cancel_scope.cancel()
        finally:
            client.close()

    async def join_once(self) -> str:
        """The identity that it gets."""
        try:
            async with self.keeping() as keeper:
                return str((await keeper.changed(None)).spiffe_id)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


async def general_join_file(replica: Replica, *before: str) -> JoinFile:
    """Without a token; `before`: endpoints to be tried first."""
    told = await where(replica)
    return JoinFile(
        trust_domain=told.trust_domain,
        join_endpoints=(*before, f"127.0.0.1:{replica.serving.join_port}"),
        api_endpoints=tuple(told.api_endpoints),
        trust_bundle=told.trust_bundle,
    )


async def token_join_file(replica: Replica, namespace: str, service: str, uses: int = 1) -> JoinFile:
    token = await make_token(replica, namespace, service, uses)
    general = await general_join_file(replica)
    fields = {name: getattr(general, name) for name in general.__struct_fields__ if name != "api_version"}
    return JoinFile(
        **{**fields, "namespace": namespace, "service": service, "token": token.token, "expires": token.expires}
    )


@pytest.fixture
async def corp(replica: Replica, namespace: str) -> AsyncIterator[str]:
    """Hosts below this domain may be any service of the namespace."""
    domain = f"{namespace}.example.org"
    await trust_hosts(replica, namespace, CORP, **{f"dns:*.{domain}": f"{namespace}/*"})
    yield domain
    await forget_hosts(replica, namespace)


def spiffe_id(namespace: str, service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/svc/{service}"


async def test_a_host_certificate_instead_of_a_token(
    replica: Replica, tmp_path: Path, namespace: str, corp: str
) -> None:
    # The first replica of the file does not answer: the next one gives a challenge of its own.
    join = await general_join_file(replica, f"127.0.0.1:{free_port()}")
    host = Host(tmp_path, join, wanted=ServiceRef(namespace, "orders")).with_certificate(f"db1.{corp}")
    assert await host.join_once() == spiffe_id(namespace, "orders")


async def test_off_for_longer_than_the_identity_lives_it_comes_back_by_its_certificate(
    replica: Replica, tmp_path: Path, namespace: str, corp: str
) -> None:
    join = await general_join_file(replica)
    host = Host(tmp_path, join, wanted=ServiceRef(namespace, "orders")).with_certificate(f"db1.{corp}")
    await host.join_once()
    kept = IdentityStore(tmp_path / "state").load()
    assert kept is not None
    # An hour and more later, by every clock but the replica's, which is this machine's: so the kept one is made old.
    old = replace(kept, not_before=kept.not_before - 7200, expires=kept.expires - 7200)
    IdentityStore(tmp_path / "state").save(old)
    async with host.keeping() as keeper:
        fresh = await keeper.changed(None)
    assert fresh.expires > time.time()
    assert fresh.key_pem != kept.key_pem


async def test_off_for_longer_with_a_used_token_it_says_what_it_needs(
    replica: Replica, tmp_path: Path, namespace: str
) -> None:
    host = Host(tmp_path, await token_join_file(replica, namespace, "orders"))
    await host.join_once()
    host.offset = 2 * 3600
    async with host.keeping() as keeper:
        await eventually("it has tried", lambda: keeper.problem)
        assert keeper.problem is not None
        for words in (spiffe_id(namespace, "orders"), "expired", "can't join anew", "meshadm token create"):
            assert words in keeper.problem
        # A new join file heals it without a restart. The clock was what was wrong here.
        host.join = await token_join_file(replica, namespace, "orders")
        host.offset = 0
        keeper.look_again()
        assert (await keeper.changed(None)).spiffe_id.service == ServiceRef(namespace, "orders")


async def test_a_token_for_a_namespace_and_a_host_that_says_what_it_is(
    replica: Replica, tmp_path: Path, namespace: str
) -> None:
    join = await token_join_file(replica, namespace, "*", uses=2)
    for service in ("orders", "payments"):
        host = Host(tmp_path / service, join, wanted=ServiceRef(namespace, service))
        assert await host.join_once() == spiffe_id(namespace, service)
    with pytest.raises(InvalidInput, match=r"attest\.joinToken\.service"):
        await Host(tmp_path / "silent", join).join_once()
    with pytest.raises(InvalidInput, match="the settings say"):
        await Host(tmp_path / "other", join, wanted=ServiceRef("other", "orders")).join_once()


async def test_a_service_that_the_certificate_does_not_allow(
    replica: Replica, tmp_path: Path, namespace: str, corp: str
) -> None:
    join = await general_join_file(replica)
    host = Host(tmp_path, join, wanted=ServiceRef("elsewhere", "orders")).with_certificate(f"db1.{corp}")
    with pytest.raises(PermissionDenied, match=f"vouches for {namespace}"):
        await host.join_once()
    host = replace(host, wanted=ServiceRef(namespace, "orders")).with_certificate("db1.example.net")
    with pytest.raises(Unauthenticated, match="no rule of"):
        await host.join_once()


async def test_a_join_file_without_a_token_and_a_host_without_a_certificate(replica: Replica, tmp_path: Path) -> None:
    host = Host(tmp_path, await general_join_file(replica), wanted=ServiceRef("shop", "orders"))
    with pytest.raises(InvalidInput, match="it has no token"):
        await host.join_once()


def test_host_files_that_are_no_good_are_named_and_not_shown(tmp_path: Path) -> None:
    service = ServiceRef("shop", "orders")
    good, other = (CORP.issue("db1").write(tmp_path, name) for name in ("good", "other"))
    load = partial(load_host_certificate, service=service)
    assert "key" not in repr(load(good.cert, good.key)).replace("service", "")
    (tmp_path / "large").write_bytes(bytes(300_000))
    (tmp_path / "text").write_text("no PEM")
    for certificate, key, named in (
        (good.cert, other.key, "other.key"),
        (good.cert, tmp_path / "text", "text"),
        (tmp_path / "text", good.key, "text"),
        (tmp_path / "missing", good.key, "missing"),
        (good.cert, tmp_path / "large", "large"),
        (good.cert, good.cert, "good.crt"),
    ):
        with pytest.raises(InvalidInput, match=named) as caught:
            load(certificate, key)
        assert "BEGIN" not in str(caught.value)


# -- settings

SETTINGS = """
instance: orders-1
advertise: 10.0.0.1
stateDir: /var/lib/mesh
runtimeDir: /run/mesh
"""


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ("", None),
        ("attest: {joinToken: {service: orders.shop}}", ServiceRef("shop", "orders")),
        ("join: /j\nattest: {x509: {certificate: /c, key: /k, service: web.shop}}", ServiceRef("shop", "web")),
    ],
)
def test_settings(tmp_path: Path, more: str, wanted: ServiceRef | None) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(SETTINGS + more)
    assert config.load(path).attest.wanted == wanted


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("attest: {joinToken: {service: orders}}", r"\$\.attest\.joinToken\.service"),
        ("join: /j\nattest: {x509: {certificate: /c, key: /k, service: a/b}}", r"\$\.attest\.x509\.service"),
        ("attest: {x509: {certificate: /c, key: /k, service: web.shop}}", r"\$\.join"),
        ("attest: {x509: {certificate: /c, service: web.shop}}", r"attest\.x509"),
        ("attest: {token: x}", r"attest"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, more: str, field: str) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(SETTINGS + more)
    with pytest.raises(InvalidInput, match=field):
        config.load(path)

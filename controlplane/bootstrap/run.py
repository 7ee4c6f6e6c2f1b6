"""[edge] `meshadm init`: from nothing to a mesh. Every step finds what an earlier run did: it is safe to run again.

    files ▸ etcd's version ▸ users, roles, grants, authentication ▸ genesis ▸ proof ▸ the CA key's file goes

The CA key of etcd's clients is the only secret that moves: it has to be a file while there is no etcd to keep it, and
is removed once it was read back out of etcd and opened.
"""

import os
import time

import trio
from cryptography.hazmat.primitives.asymmetric import ec

import trio_etcd
from controlplane import config
from controlplane.bootstrap import etcd_access, files
from controlplane.bootstrap.genesis import MESH_REF, genesis
from controlplane.bootstrap.layout import Layout, etcd_hosts, how_to_start_etcd, replica_config
from controlplane.bootstrap.options import InitOptions, InitResult, Report, Step
from controlplane.bootstrap.recover import sealed_etcd_ca
from controlplane.ca.authority import Authority
from controlplane.ca.keystore import open_authority
from controlplane.ca.template import Validity, etcd_server
from schemas import codec
from schemas.errors import Corrupt, InvalidInput, Problem
from schemas.keys import Keyspace
from schemas.names import check_trust_domain
from schemas.objects.mesh import Mesh
from schemas.records import SealedKey
from trio_etcd import Client, Compare, Put

__all__ = ["InitOptions", "InitResult", "Report", "Step", "init"]


async def init(options: InitOptions, report: Report) -> InitResult:
    """Files, then etcd's users and roles, then the CA and the first records in one transaction.

    `report` gets each step as it ends. Raises

    InvalidInput      an option is not valid, a file is not what it should be, or etcd holds another mesh
    Unavailable       etcd does not answer, or is not to be trusted; the text says how to start it; run again to go on
    PermissionDenied  etcd does not take the administrator's certificate
    Conflict          another `meshadm init` works on the same directory
    NoAuthority, Corrupt   etcd holds a mesh whose keys this directory's key-encryption key can't open
    """
    layout = Layout(options.directory.absolute())
    _check(options, layout)
    with files.only_one(layout):
        now = time.time()
        sealed_ca = await sealed_etcd_ca(options, layout) if files.needs_sealed_ca(layout, now) else None
        prepared = await trio.to_thread.run_sync(files.prepare, options, layout, now, os.environ, sealed_ca)
        for step in prepared.steps:
            report(step)
        if options.files_only:
            return InitResult(options.trust_domain, layout.config, complete=False, created=False)
        created = await _init_etcd(options, layout, prepared, report)
    return InitResult(options.trust_domain, layout.config, complete=True, created=created)


def _check(options: InitOptions, layout: Layout) -> None:
    """Every option, before anything is written. Raises InvalidInput."""
    check_trust_domain(options.trust_domain)
    config.parse(replica_config(options, layout), "the addresses of `meshadm init`")
    etcd_server(etcd_hosts(options), Validity(0, 1))


async def _init_etcd(options: InitOptions, layout: Layout, prepared: files.Prepared, report: Report) -> bool:
    """Whether this run made the mesh."""
    keyspace = Keyspace(options.prefix)
    material = prepared.etcd
    tls = trio_etcd.TLS(ca=material.ca_pem, cert=material.root_certificate_pem, key=material.root_key_pem)
    async with trio_etcd.open_etcd(options.etcd, tls=tls, timeout=options.etcd_timeout_seconds) as client:
        with etcd_access.translated(how_to_start_etcd(options, layout)):
            for step in await etcd_access.check_versions(client, allow_known_bad=options.allow_known_bad_etcd):
                report(step)
            await etcd_access.grant(client, keyspace, report)
            created = await _genesis(client, keyspace, options.trust_domain, prepared)
            authority = await _proof(client, keyspace, options, prepared)
    report(
        Step(
            f"mesh {options.trust_domain}",
            "done" if created else "already",
            "CA, trust bundle and first records" if created else "exists; its keys open with this key-encryption key",
        )
    )
    report(_remove_ca_key(layout, material, authority))
    return created


async def _genesis(client: Client, keyspace: Keyspace, trust_domain: str, prepared: files.Prepared) -> bool:
    """One transaction that only the first of all runs, on whatever host, gets through. True: it was this one."""
    if await client.get(keyspace.epoch()) is not None:
        return False
    if prepared.etcd.ca is None:
        raise InvalidInput(
            Problem(
                "etcd",
                "holds no mesh, but the key of its CA is no longer a file: this directory belongs to a mesh that was",
                remedy="restore etcd from a backup; or start anew with an empty --dir",
            )
        )
    plan = await genesis(
        trust_domain,
        keyspace,
        root_key=ec.generate_private_key(ec.SECP256R1()),
        issuing_key=ec.generate_private_key(ec.SECP256R1()),
        jwt_key=ec.generate_private_key(ec.SECP256R1()),
        etcd_ca=prepared.etcd.ca,
        kek=prepared.kek,
        random=os.urandom,
        now=time.time(),
    )
    outcome = await client.txn(
        [Compare.absent(key) for key in plan.absent], [Put(key, value) for key, value in plan.puts]
    )
    return outcome.succeeded


async def _proof(client: Client, keyspace: Keyspace, options: InitOptions, prepared: files.Prepared) -> Authority:
    """The CA as any replica will open it: what is in etcd is whole, and of this trust domain."""
    key = keyspace.object(MESH_REF)
    stored = await client.get(key)
    if stored is None:
        raise Corrupt(Problem(key.decode(), "is missing in a mesh that exists", remedy="restore etcd from a backup"))
    mesh = codec.decode(stored.value, Mesh, key.decode())
    if mesh.spec.trust_domain != options.trust_domain:
        raise InvalidInput(
            Problem(
                "trust domain",
                f"etcd holds the mesh {mesh.spec.trust_domain}, not {options.trust_domain}",
                remedy=f"give --trust-domain {mesh.spec.trust_domain}, or another etcd",
            )
        )
    listing = await client.list(keyspace.ca())
    records = [codec.decode(one.value, SealedKey, one.key.decode()) for one in listing.kvs]
    return await open_authority(records, prepared.kek)


def _remove_ca_key(layout: Layout, material: files.EtcdMaterial, authority: Authority) -> Step:
    if material.ca is None:
        return Step(str(layout.ca.key), "already", "is no file: replicas hold it sealed in etcd")
    if material.ca.key.public_key() != authority.etcd.key.public_key():
        return Step(str(layout.ca.key), "warning", "kept: etcd holds the key of another CA for its clients")
    files.remove_ca_key(layout)
    return Step(str(layout.ca.key), "done", "removed: replicas hold it sealed in etcd")

"""`check`: does anything end soon?"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import click

from controlplane.ca.expiry import life_of
from controlplane.ca.facts import REPLICA_GONE_SECONDS
from controlplane.meshadm import output
from controlplane.meshadm import sidecars as judging
from controlplane.meshadm.authority import moment
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.errors import Alarmed, Expiring, OpenGoesOn
from controlplane.meshadm.options import Connect, Duration, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import Table, count, duration, printable
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt
from schemas.names import ServiceRef
from schemas.records import HostAuthority, SidecarStatus

# SVIDs are renewed at half their life by themselves: with less than this left, renewing has failed for a while.
RENEWED_LEFT = 1 / 3
# Of a file that somebody else renews, ACME clients for one with a third of its life left: less than this says that they
# have failed for a while, however short its life.
FILE_LEFT = 1 / 5
# Certificates that `meshadm init` makes for etcd, below its directory; nothing renews them.
_ETCD_FILES = ("ca.crt", "server.crt", "root.crt", "replica.crt", "tooling.crt")


@dataclass(frozen=True, slots=True)
class Finding:
    """`least`: seconds that must be left."""

    what: str
    not_after: int
    least: float

    def bad(self, now: float) -> bool:
        return self.not_after - now < self.least


@click.command(
    "check",
    cls=MeshCommand,
    short_help="Fail if anything expires soon.",
    example="""
meshadm check --fail-if-expiring 30d
meshadm check --fail-if-expiring 30d -o json
""",
)
@click.option(
    "--fail-if-expiring",
    "least",
    type=Duration(),
    default="30d",
    show_default=True,
    help="CA keys and etcd's certificates must last longer than that.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default="/etc/mesh",
    show_default=True,
    help="Where `meshadm init` put etcd's certificates; those that can be read are looked at.",
)
@formats("table", "json", "yaml")
@connects
def check(connect: Connect, least: float, directory: Path, form: Format) -> None:
    """Look at every certificate of the mesh: CA keys, etcd's files on this host, replicas, the files that they use,
    host authorities, connected sidecars.

    SVIDs are short-lived: they fail the check when less than a third of their life is left, since they are renewed at
    half of it. A sidecar that is revoked renews nothing and is left out. Ends with 9 when anything fails the check,
    with 11 when a sidecar can't end what is open and no longer allowed, with 10 when the replica raises an alarm about
    the whole mesh, with 0 when all is well.
    """

    async def ask(
        client: MeshClient,
    ) -> tuple[pb.AuthorityStatus, list[HostAuthority], list[SidecarStatus], tuple[str, ...]]:
        authority = await client.call("/mesh.v1.Authority/Status", pb.AuthorityStatusRequest(), pb.AuthorityStatus)
        revoked = await client.revoked()
        found = await client.sidecars()
        renewing = [one for one in found.statuses if ServiceRef(one.namespace, one.service) not in revoked]
        attestors = await client.call("/mesh.v1.Attestors/List", pb.ListAttestorsRequest(), pb.ListAttestorsReply)
        return authority, _readable(attestors), renewing, found.alarms

    authority, vouching, sidecars, alarms = connect.run(ask)
    now = time.time()
    findings = [
        *_of_keys(authority, least),
        *_of_files(directory, least),
        *_of_replicas_files(authority, least, now),
        *(Finding(life.what, life.not_after, least) for one in vouching if (life := life_of(one)) is not None),
        *_of_svids(authority, sidecars, now),
    ]
    findings.sort(key=lambda one: (not one.bad(now), one.not_after))
    bad = [one for one in findings if one.bad(now)]
    uncut = judging.uncut(judging.judged(sidecars, 0, now))
    if form == "table":
        output.show_table(_table(findings, now))
        for name, why in uncut:
            output.line(printable(f"what is open and no longer allowed goes on at {name}: {why}"))
        for text in alarms:
            output.line(printable(f"ALARM: {text}"))
    else:
        certificates = [_plain(one, now) for one in findings]
        goes_on = [{"sidecar": name, "why": why} for name, why in uncut]
        ok = not bad and not uncut and not alarms
        output.show_plain({"ok": ok, "certificates": certificates, "uncut": goes_on, "alarms": list(alarms)}, form)
    if bad:
        names = "\n".join(f"{one.what}: {_left(one, now)}" for one in bad)
        raise Expiring(
            f"{count(len(bad), 'certificate ends', 'certificates end')} too soon\n{names}\nsee docs/ca.md, Expiry"
        )
    if uncut:
        raise OpenGoesOn(uncut)
    if alarms:
        raise Alarmed("\n".join(alarms))


def _of_keys(authority: pb.AuthorityStatus, least: float) -> list[Finding]:
    return [Finding(key.id, key.not_after, least) for key in authority.keys if key.state == "active" and key.not_after]


def _of_files(directory: Path, least: float) -> list[Finding]:
    from controlplane.rotation.expiry import lives_of_files  # only this command needs what it brings along

    files = [directory / "etcd" / name for name in _ETCD_FILES]
    return [Finding(life.what, life.not_after, least) for life in lives_of_files(files)]


def _of_replicas_files(authority: pb.AuthorityStatus, least: float, now: float) -> list[Finding]:
    return [
        Finding(
            f"{file.path} of replica {one.name}",
            file.not_after,
            min(least, (file.not_after - file.not_before) * FILE_LEFT),
        )
        for one in authority.replicas
        if now - one.seen < REPLICA_GONE_SECONDS
        for file in one.files
    ]


def _readable(reply: pb.ListAttestorsReply) -> list[HostAuthority]:
    """By others nobody can join, and `meshadm attestor list` names them."""
    found = []
    for data in reply.host_authorities:
        with contextlib.suppress(Corrupt):
            found.append(codec.decode(data, HostAuthority, "host authority"))
    return found


def _of_svids(authority: pb.AuthorityStatus, sidecars: list[SidecarStatus], now: float) -> list[Finding]:
    least = authority.svid_ttl_seconds * RENEWED_LEFT
    found = [
        Finding(f"SVID of {one.namespace}/{one.service}.{one.instance}", one.svid_expires, least) for one in sidecars
    ]
    # One that is gone has nothing to renew.
    found += [
        Finding(f"SVID of replica {one.name}", one.svid_expires, least)
        for one in authority.replicas
        if now - one.seen < REPLICA_GONE_SECONDS
    ]
    return found


def _left(one: Finding, now: float) -> str:
    left = one.not_after - now
    return f"{duration(left)} left" if left > 0 else f"EXPIRED {duration(left)} ago"


def _table(findings: list[Finding], now: float) -> Table:
    rows = tuple(
        (one.what, moment(one.not_after), _left(one, now), "TOO SOON" if one.bad(now) else "ok") for one in findings
    )
    return Table(("CERTIFICATE", "ENDS", "LEFT", "VERDICT"), rows, "nothing to look at")


def _plain(one: Finding, now: float) -> dict[str, object]:
    return {
        "what": one.what,
        "notAfter": one.not_after,
        "secondsLeft": int(one.not_after - now),
        "ok": not one.bad(now),
    }

"""The agent's metrics, from what it says of itself. Pure."""

from collections.abc import Iterable, Mapping

from dataplane.identity.material import Identity
from schemas.records import SidecarStatus
from telemetry import families
from telemetry.families import Family


def of_sidecar(status: SidecarStatus, identity: Identity | None, renewals: dict[str, int], now: float) -> list[Family]:
    """renewals: how many ended how, ``ok`` and ``failed``. now: seconds since 1970."""
    return [*_of_identity(identity, renewals), *_of_status(status, now)]


def of_names(queries: Mapping[str, int]) -> list[Family]:
    """queries: how many ended how."""
    return [
        families.counters("sidecar_dns_queries", "Queries to the sidecar's DNS, by how they ended.", "outcome", queries)
    ]


def _of_identity(identity: Identity | None, renewals: dict[str, int]) -> Iterable[Family]:
    if identity is not None:
        yield families.expiries({"svid": identity.expires, "etcd-client": identity.etcd.expires})
    about = "Renewals of the identity that were tried, by how they ended."
    yield families.counters("sidecar_renewals", about, "outcome", renewals)


def _of_status(status: SidecarStatus, now: float) -> Iterable[Family]:
    name = f"{status.namespace}/{status.service}.{status.instance}"
    who = {"sidecar": name, "agent_version": status.agent_version, "envoy_version": status.envoy_version}
    yield families.info("sidecar_info", "1: which sidecar this is, and what it runs.", who)
    stale = 0.0 if status.stale_since is None else max(0.0, now - status.stale_since)
    yield families.gauge("sidecar_stale_seconds", "Since when there is no word from etcd; 0: none is missed.", stale)
    yield families.gauge("sidecar_refusals", "Resources that Envoy refuses.", len(status.nacks))
    yield families.gauge(
        "sidecar_problems", "Objects set aside, and what else `status` complains of.", len(status.problems)
    )
    if status.open_streams is not None:
        about = "0: what is open and no longer allowed goes on, for the agent can't end it."
        yield families.gauge("sidecar_can_end_open_streams", about, not status.open_streams.goes_on)
    about = "The newest revision whose every consequence Envoy has acked."
    yield families.gauge("sidecar_acked_revision", about, status.acked_revision)
    about = "The newest revision that was compiled and offered to Envoy."
    yield families.gauge("sidecar_applied_revision", about, status.applied_revision)

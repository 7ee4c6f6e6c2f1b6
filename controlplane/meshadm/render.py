"""Objects, outcomes and events -> tables and plain values. Pure; the plain values are what `-o json` promises."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from controlplane.meshadm.table import Table, count, joined, printable
from controlplane.meshadm.values import Listing, Stored
from routing.backends import services_named
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.keys import Keyspace
from schemas.names import ObjectRef
from schemas.objects import AnyRoute, ExternalService, Gateway, Service
from schemas.objects.common import TargetRef
from schemas.records import OpenStreams

ACTIONS = {
    pb.Outcome.UNCHANGED: "unchanged",
    pb.Outcome.CREATED: "created",
    pb.Outcome.UPDATED: "updated",
    pb.Outcome.DELETED: "deleted",
}

Column = tuple[str, Callable[[Any], str]]


def _targets(refs: Sequence[TargetRef] | None) -> str:
    return "all of its namespace" if refs is None else joined(ref.name for ref in refs)


def _ports(service: Service | ExternalService) -> str:
    return joined(f"{port.name}:{port.port}/{port.protocol}" for port in service.spec.ports)


def _address(service: Service | ExternalService) -> str:
    return service.spec.virtual_address.ipv4 if service.spec.virtual_address else "-"


def _dependencies(service: Service) -> str:
    if service.spec.dependencies is None:
        return "all"
    own = service.metadata.namespace
    return joined(
        one.name if one.namespace in (None, own) else f"{one.name}.{one.namespace}" for one in service.spec.dependencies
    )


def _parents(route: AnyRoute) -> str:
    own = route.metadata.namespace
    return joined(
        (ref.name if ref.namespace in (None, own) else f"{ref.name}.{ref.namespace}")
        + (f":{ref.port or ref.section_name}" if ref.port or ref.section_name else "")
        for ref in route.spec.parent_refs
    )


def _backends(route: AnyRoute) -> str:
    return joined(sorted({str(service) for service in services_named(route)}))


def _listeners(gateway: Gateway) -> str:
    return joined(f"{one.hostname or '*'}:{one.port}/{one.protocol}" for one in gateway.spec.listeners)


_ROUTE_COLUMNS: Sequence[Column] = (
    ("FOR", _parents),
    ("RULES", lambda one: str(len(one.spec.rules))),
    ("TO", _backends),
)
_COLUMNS: Mapping[str, Sequence[Column]] = {
    "Service": (("PORTS", _ports), ("DEPENDENCIES", _dependencies), ("VIRTUAL ADDRESS", _address)),
    "HTTPRoute": _ROUTE_COLUMNS,
    "GRPCRoute": _ROUTE_COLUMNS,
    "TCPRoute": _ROUTE_COLUMNS,
    "AuthorizationPolicy": (
        ("ACTION", lambda one: one.spec.action),
        ("TARGETS", lambda one: _targets(one.spec.target_refs)),
        ("RULES", lambda one: str(len(one.spec.rules))),
    ),
    "BackendTrafficPolicy": (
        ("TARGETS", lambda one: _targets(one.spec.target_refs)),
        ("LOAD BALANCER", lambda one: one.spec.load_balancer.type),
    ),
    "RateLimitPolicy": (
        ("TARGETS", lambda one: _targets(one.spec.target_refs)),
        ("LIMITS", lambda one: joined(f"{rule.limit.requests}/{rule.limit.unit}" for rule in one.spec.rules)),
    ),
    "RequestAuthentication": (
        ("TARGETS", lambda one: _targets(one.spec.target_refs)),
        ("ISSUERS", lambda one: joined(rule.issuer for rule in one.spec.jwt_rules)),
    ),
    "PeerAuthentication": (
        ("TARGETS", lambda one: _targets(one.spec.target_refs)),
        ("MODE", lambda one: one.spec.mtls.mode if one.spec.mtls is not None else "-"),
        ("PORTS", lambda one: joined(f"{port}:{said.mode}" for port, said in one.spec.port_level_mtls.items())),
    ),
    "Telemetry": (
        ("TARGETS", lambda one: _targets(one.spec.target_refs)),
        ("SAYS", lambda one: joined(one.sections)),
    ),
    "ExternalService": (
        ("PORTS", _ports),
        ("HOSTS", lambda one: joined(one.spec.hosts)),
        ("AT", lambda one: joined(endpoint.address for endpoint in one.addresses)),
        ("TLS", lambda one: one.spec.tls.spiffe_id or one.spec.tls.mode),
        ("VIRTUAL ADDRESS", _address),
    ),
    "Gateway": (
        ("SERVICE", lambda one: one.spec.service),
        ("LISTENERS", _listeners),
    ),
    "TrustBundle": (
        ("TRUST DOMAIN", lambda one: one.spec.trust_domain),
        ("FROM", lambda one: one.spec.bundle_endpoint.url if one.spec.bundle_endpoint else "written here"),
    ),
    "Mesh": (
        ("TRUST DOMAIN", lambda one: one.spec.trust_domain),
        ("SVID TTL", lambda one: f"{one.spec.svid_ttl_seconds}s"),
        ("VIRTUAL ADDRESSES", lambda one: one.spec.virtual_addresses.ipv4),
        ("OUTSIDE", lambda one: one.spec.outbound_traffic_policy.mode),
    ),
}


def object_table(kind: str, listing: Sequence[Stored], where: str) -> Table:
    """`where` completes the sentence that says that there is none: ``in namespace shop``."""
    columns = _COLUMNS.get(kind, ())
    rows = tuple(
        (
            stored.object.metadata.namespace,
            stored.object.metadata.name,
            *(printable(cell(stored.object)) for _, cell in columns),
            str(stored.revision),
        )
        for stored in listing
    )
    return Table(
        ("NAMESPACE", "NAME", *(title for title, _ in columns), "REVISION"), rows, f"no object of kind {kind} {where}"
    )


def plain_object(stored: Stored) -> dict[str, Any]:
    """The object as it is written in a file, with `metadata.revision`."""
    return codec.to_builtins(stored.object, revision=stored.revision)


def plain_list(listing: Listing) -> dict[str, Any]:
    """``{apiVersion, kind: List, revision, items}``."""
    return {
        "apiVersion": "mesh/v1",
        "kind": "List",
        "revision": listing.revision,
        "items": [plain_object(stored) for stored in listing.objects],
    }


# -- outcomes


def outcome_lines(reply: pb.ApplyReply, *, dry_run: bool) -> list[str]:
    """One line an object, and one for the whole."""
    suffix = " (dry run)" if dry_run else ""
    found = [f"{_ref(one.key)} {ACTIONS.get(one.action, 'changed')}{suffix}" for one in reply.outcomes]
    changed = sum(one.action != pb.Outcome.UNCHANGED for one in reply.outcomes)
    if dry_run:
        found.append(f"{count(changed, 'object', 'objects')} would change; nothing was written")
    elif reply.revision:
        found.append(f"{count(changed, 'object', 'objects')} changed at revision {reply.revision}")
    else:
        found.append("nothing changed")
    return found


def plain_outcomes(reply: pb.ApplyReply, *, dry_run: bool) -> dict[str, Any]:
    """``{dryRun, revision, outcomes: [{kind, namespace, name, action}]}``; revision 0: nothing was written."""
    return {
        "dryRun": dry_run,
        "revision": reply.revision,
        "outcomes": [
            {
                "kind": one.key.kind,
                "namespace": one.key.namespace,
                "name": one.key.name,
                "action": ACTIONS.get(one.action, "changed"),
            }
            for one in reply.outcomes
        ],
    }


def plain_progress(progress: pb.WaitProgress) -> dict[str, Any]:
    """``{revision, total, acked, pending, refusals: [{sidecar, resource, message}], revoked, done, openBoundMs,
    passedBoundMs, uncut: [{sidecar, why}], boundUnknown}``; a bound that nobody has said is null."""
    return {
        "revision": progress.revision,
        "total": progress.total,
        "acked": progress.acked,
        "pending": sorted(progress.pending),
        "refusals": [
            {"sidecar": one.sidecar, "resource": one.resource, "message": one.message} for one in progress.refusals
        ],
        "revoked": sorted(progress.revoked),
        "done": progress.done,
        "openBoundMs": progress.open_bound_ms or None,
        "passedBoundMs": progress.passed_bound_ms or None,
        "uncut": [{"sidecar": one.sidecar, "why": one.why} for one in progress.uncut],
        "boundUnknown": sorted(progress.bound_unknown),
    }


def end_lines(progress: pb.WaitProgress) -> list[str]:
    """Of a wait for all, which all run now."""
    sidecars = count(progress.total, "sidecar runs", "sidecars run")
    first = f"{sidecars} revision {progress.revision}" if progress.total else "no sidecar is connected"
    if progress.open_bound_ms:
        bound = OpenStreams(bound_ms=progress.open_bound_ms, passed_bound_ms=progress.passed_bound_ms)
        but = f", but at {len(progress.uncut)} of them" if progress.uncut else ""
        first += f"; what is open and no longer allowed {bound}{but}"
    lines = [first]
    if progress.bound_unknown:
        lines.append(f"when it ends is not known of {joined(sorted(progress.bound_unknown))}: of an older version")
    lines += [f"what is open and no longer allowed goes on at {one.sidecar}: {one.why}" for one in progress.uncut]
    if progress.revoked:
        lines.append(f"revoked, and not waited for: {joined(sorted(progress.revoked))}")
    return lines


def progress_line(progress: pb.WaitProgress) -> str:
    text = f"{progress.acked} of {count(progress.total, 'sidecar runs', 'sidecars run')} revision {progress.revision}"
    return f"{text}, waiting for {joined(sorted(progress.pending))}" if progress.pending else text


def _ref(key: pb.ObjectKey) -> str:
    return str(ObjectRef(key.kind, key.namespace, key.name))


# -- events


def plain_event(event: pb.WatchEvent, keys: Keyspace) -> dict[str, Any]:
    """``{revision, action: put|delete, key, of, value?, problem?}``; `of` is what the key holds, in words."""
    ref = keys.parse(event.key.encode())
    plain: dict[str, Any] = {
        "revision": event.revision,
        "action": "delete" if event.deleted else "put",
        "key": event.key,
        "of": str(ref) if ref else None,
    }
    if not event.deleted:
        try:
            # Undecoded into our types on purpose: what a newer writer stored is shown too.
            plain["value"] = msgspec.to_builtins(msgspec.msgpack.decode(event.value), str_keys=True)
        except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as error:
            plain["problem"] = f"not MessagePack: {error}"
    return plain


def event_line(event: pb.WatchEvent, keys: Keyspace) -> str:
    plain = plain_event(event, keys)
    what = plain["of"] or event.key
    detail = plain.get("problem") or _summary(plain.get("value"))
    return printable(f"{event.revision}  {plain['action']:<6}  {what}" + (f"  {detail}" if detail else ""))


# Of a status, what changes; of an endpoint, where it is. An object's own `spec` is what people look for.
_SUMMARY_FIELDS = (
    "spec",
    "address",
    "ports",
    "ackedRevision",
    "appliedRevision",
    "staleSince",
    "nacks",
    "problems",
    "levels",
    "logLevels",
    "sequence",
    "id",
)
_SUMMARY_CHARACTERS = 160


def _summary(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    text = " ".join(
        f"{name}={msgspec.json.encode(value[name]).decode()}"
        for name in _SUMMARY_FIELDS
        if value.get(name) not in (None, [], {})
    )
    return text if len(text) <= _SUMMARY_CHARACTERS else f"{text[: _SUMMARY_CHARACTERS - 1]}…"

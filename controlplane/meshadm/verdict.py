"""What `meshadm route` found, for people and as plain values. Pure."""

from typing import Any

from controlplane.meshadm.table import printable
from routing.explain import Share, Verdict


def verdict_lines(verdict: Verdict) -> list[str]:
    """First what happens, then why."""
    entry = verdict.entry
    if entry is not None:
        found = [f"{entry}: {entry.condition}"]
    elif verdict.shares:
        found = [
            f"no route is attached to port {verdict.port.port} of {verdict.service}: all goes to the service itself"
        ]
    else:
        found = [f"port {verdict.port.port} of {verdict.service}"]
    if verdict.answer:
        found.append(f"  answered {verdict.answer}")
    found += [f"  {_share(one)}" for one in verdict.shares]
    found += [f"  {text}" for text in verdict.does]
    if verdict.before:
        found += ["did not match before:" if entry else "did not match:"]
        found += [f"  {one} match {one.match_index}: {why}" for one, why in verdict.before]
    found += [f"does not count: {ref}: {why}" for ref, why in verdict.outranked]
    found += [f"note: {text}" for text in verdict.notes]
    return [printable(text) for text in found]


def _share(share: Share) -> str:
    text = f"{share.percent:g} % to {share.target}"
    return f"{text}: 503, {share.missing}" if share.missing else text


def plain_verdict(verdict: Verdict) -> dict[str, Any]:
    """``{service, port, route?, rule?, match?, answer?, refused, backends, does, before, outranked, notes}``."""
    entry = verdict.entry
    plain: dict[str, Any] = {"service": str(verdict.service), "port": verdict.port.port}
    if entry is not None:
        plain["route"] = {"kind": entry.route.kind, "namespace": entry.route.namespace, "name": entry.route.name}
        plain |= {"rule": entry.rule_index, "match": entry.match_index, "condition": str(entry.condition)}
    if verdict.answer:
        plain["answer"] = verdict.answer
    plain["refused"] = verdict.refused
    plain["backends"] = [
        {"target": one.target, "percent": one.percent} | ({"missing": one.missing} if one.missing else {})
        for one in verdict.shares
    ]
    plain["does"] = list(verdict.does)
    plain["before"] = [
        {"route": str(one.route), "rule": one.rule_index, "match": one.match_index, "why": why}
        for one, why in verdict.before
    ]
    plain["outranked"] = [{"route": str(ref), "why": why} for ref, why in verdict.outranked]
    plain["notes"] = list(verdict.notes)
    return plain

"""The CA's keys and a rotation's progress, in words for people. Pure."""

from datetime import UTC, datetime

from controlplane.meshadm.table import Table, duration, printable
from schemas.api import mesh_pb2 as pb

# Holders that are named in a line of progress; `ca status` names all.
SHOWN_HOLDS = 5


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else "-"


def keys_table(status: pb.AuthorityStatus, now: float) -> Table:
    rows = tuple(
        (
            key.id,
            key.state,
            moment(key.since),
            f"{moment(key.not_after)} ({duration(key.not_after - now)})" if key.not_after else "no certificate yet",
            str(key.presented_by) if key.role == "mesh-issuing" else "-",
            "external" if key.external else (key.kek_id or "-"),
        )
        for key in status.keys
    )
    columns = ("KEY", "STATE", "SINCE", "ENDS", "SIDECARS", "SEALED UNDER")
    return Table(columns, rows, "no keys: run `meshadm init`")


def status_lines(status: pb.AuthorityStatus, now: float) -> list[str]:
    """What the table does not say."""
    lines = [f"trust bundle {status.bundle_sequence} of {status.trust_domain}"]
    for replica in status.replicas:
        lines.append(
            f"replica {printable(replica.name)}: issues with {replica.issues_with}, trusts by bundle "
            f"{replica.trust_sequence}, seen {duration(now - replica.seen)} ago"
        )
    if status.HasField("rotation"):
        lines += progress_lines(status.rotation, now, shown=len(status.rotation.holds))
    elif status.due:
        lines.append(f"a rotation is due: {status.due}")
    for key in status.keys:
        lines += [f"FORCED: {key.id}: {printable(note)}" for note in key.forced]
    return lines


def progress_lines(progress: pb.RotationProgress, now: float, shown: int = SHOWN_HOLDS) -> list[str]:
    """A line for what is next, one for each of the first `shown` that hold it back."""
    if progress.done:
        return [f"the rotation of {progress.what} is done" if progress.what else "no rotation is under way"]
    forced = " FORCED," if progress.force else ""
    head = f"rotation of {progress.what}, started by {printable(progress.by)}:{forced} next: {progress.next}"
    lines = [head + (f", held back by {len(progress.holds)}:" if progress.holds else "")]
    lines += [f"  {hold_line(hold, now)}" for hold in progress.holds[:shown]]
    if len(progress.holds) > shown:
        lines.append(f"  and {len(progress.holds) - shown} more: `meshadm ca status`")
    return lines


def hold_line(hold: pb.CaHold, now: float) -> str:
    until = f"; at the latest in {duration(max(0.0, hold.until - now))}" if hold.until else ""
    return printable(f"{hold.who}: {hold.why}" if hold.who else hold.why) + until

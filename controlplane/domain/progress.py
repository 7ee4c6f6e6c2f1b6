"""How far the sidecars are with a revision. Pure; O(change)."""

from collections import Counter
from dataclasses import dataclass

from schemas.keys import StatusRef
from schemas.records import OpenStreams, SidecarStatus


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """A resource that a sidecar's Envoy refused, in Envoy's words."""

    sidecar: str
    resource: str
    message: str


@dataclass(frozen=True, slots=True, order=True)
class Uncut:
    """A sidecar that can't end what is open, and why."""

    sidecar: str
    why: str


@dataclass(frozen=True, slots=True)
class Progress:
    """`pending`: names, sorted. `done`: all have acked, or one has refused.

    `revoked`: names, sorted, of those whose identity is revoked. Nothing they say is heard, so nobody waits for them,
    and they are not in `total`.

    open_bound_ms, passed_bound_ms: the longest that any of the others says (schemas.records.OpenStreams); 0: none does.
    uncut: where what is open goes on; that ends no wait, for no sidecar mends it. bound_unknown: names, sorted, of
    those that do not say.
    """

    total: int
    acked: int
    pending: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    revoked: tuple[str, ...] = ()
    open_bound_ms: int = 0
    passed_bound_ms: int = 0
    uncut: tuple[Uncut, ...] = ()
    bound_unknown: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        return bool(self.refusals) or not self.pending


class Tracker:
    """Counts all sidecars with a live status. One that goes away counts no more; one that comes, does."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self._acked: set[StatusRef] = set()
        self._pending: set[StatusRef] = set()
        self._refused: dict[StatusRef, tuple[Refusal, ...]] = {}
        self._revoked: set[StatusRef] = set()
        self._open: dict[StatusRef, OpenStreams] = {}
        self._bounds: Counter[OpenStreams] = Counter()
        """How many say each of those in `_open`: different ones are few."""
        self._uncut: set[StatusRef] = set()
        self._silent: set[StatusRef] = set()
        """Who says nothing of what is open."""

    def update(self, ref: StatusRef, status: SidecarStatus | None, *, revoked: bool = False) -> None:
        """`status` None: it is there, but has not said anything that can be understood."""
        self.remove(ref)
        if revoked:
            self._revoked.add(ref)
            return
        if status is not None:
            self._take_open(ref, status.open_streams)
        refusals = self._refusals(ref, status) if status else ()
        if refusals:
            self._refused[ref] = refusals
        elif status is not None and status.acked_revision >= self.revision:
            self._acked.add(ref)
        else:
            self._pending.add(ref)

    def remove(self, ref: StatusRef) -> None:
        self._acked.discard(ref)
        self._pending.discard(ref)
        self._refused.pop(ref, None)
        self._revoked.discard(ref)
        self._silent.discard(ref)
        self._uncut.discard(ref)
        said = self._open.pop(ref, None)
        if said is not None:
            self._bounds[said] -= 1
            if not self._bounds[said]:
                del self._bounds[said]

    def _take_open(self, ref: StatusRef, said: OpenStreams | None) -> None:
        if said is None:
            self._silent.add(ref)
            return
        self._open[ref] = said
        self._bounds[said] += 1
        if said.goes_on:
            self._uncut.add(ref)

    def progress(self) -> Progress:
        return Progress(
            len(self._acked) + len(self._pending) + len(self._refused),
            len(self._acked),
            tuple(sorted(map(sidecar_name, self._pending))),
            tuple(sorted(refusal for refusals in self._refused.values() for refusal in refusals)),
            tuple(sorted(map(sidecar_name, self._revoked))),
            max((one.bound_ms for one in self._bounds), default=0),
            max((one.passed_bound_ms for one in self._bounds), default=0),
            tuple(sorted(Uncut(sidecar_name(ref), self._open[ref].problem) for ref in self._uncut)),
            tuple(sorted(map(sidecar_name, self._silent))),
        )

    def _refusals(self, ref: StatusRef, status: SidecarStatus) -> tuple[Refusal, ...]:
        """Of this revision, or older and still standing although this revision has been offered."""
        offered = status.applied_revision >= self.revision
        return tuple(
            Refusal(sidecar_name(ref), f"{nack.type_url.rpartition('.')[2]} {nack.resource}", nack.message)
            for nack in status.nacks
            if offered or nack.revision >= self.revision
        )


def sidecar_name(ref: StatusRef) -> str:
    """``<namespace>/<service>.<instance>``, for people."""
    return f"{ref.namespace}/{ref.sidecar}"

"""[edge] The files that objects name, as they are now; or as they were when they were last good.

Whoever renews a certificate replaces two files, one after the other. In between they don't belong together; that is
said only when it lasts. Whatever is wrong with the files, what was good before stays in use.
"""

import datetime
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from dataplane.certificates import files as reading
from dataplane.certificates.check import BadCertificate, Checked, check
from dataplane.certificates.files import Signature
from dataplane.certificates.store import PairStore
from dataplane.compile.workload import KeyPair
from schemas.errors import Problem
from schemas.objects.common import CertificateFiles

log = logging.getLogger("mesh.agent")

# Seconds between two looks, and so the bound for a renewed certificate to be in use.
LOOK_EVERY_S = 1.0
# Seconds for which files may not belong together before it is said.
PATIENCE_S = 5.0
# Before the end of a certificate that nobody has renewed: as much, and at most that part of its life. ACME clients
# renew at a third of it.
WARN_BEFORE, WARN_PART = datetime.timedelta(days=3), 6

Clock = Callable[[], float]


@dataclass(slots=True)
class _Kept:
    """What is known of one pair of files."""

    of: str
    """Who asks for it, for sentences."""
    good: Checked | None = None
    seen: tuple[Signature | None, Signature | None] | None = None
    wrong: str = ""
    wrong_since: float = 0.0


class CertificateKeeper:
    """directory: None, nothing is read. clock: seconds since 1970. changed: when `pairs` or `problems` are new."""

    def __init__(self, directory: Path | None, store: PairStore, clock: Clock, changed: Callable[[], None]) -> None:
        self._directory = directory
        self._store = store
        self._clock = clock
        self._changed = changed
        self._kept: dict[CertificateFiles, _Kept] = {}
        self._said: tuple[Problem, ...] = ()
        self._looking = trio.Lock()

    @property
    def pairs(self) -> dict[CertificateFiles, KeyPair]:
        return {files: one.good.pair for files, one in self._kept.items() if one.good is not None}

    def problems(self) -> tuple[Problem, ...]:
        """In order, each with the object that asks for the files, and their names."""
        return self._said

    def wants(self, wanted: Mapping[CertificateFiles, str]) -> bool:
        """Whether `want` would have something to do."""
        return {files: one.of for files, one in self._kept.items()} != wanted

    async def want(self, wanted: Mapping[CertificateFiles, str]) -> None:
        """`wanted`: with who asks for each. Returns when what is new has been read."""
        async with self._looking:
            self._kept = {files: self._kept.get(files) or _Kept(of) for files, of in wanted.items()}
            for files, of in wanted.items():
                self._kept[files].of = of
            await trio.to_thread.run_sync(self._look, True)
            self._said = tuple(self._problems())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            if self._kept:
                await self.look()

    async def look(self) -> None:
        """Once more, and calls `changed` where there is something new."""
        async with self._looking:
            before = self.pairs
            await trio.to_thread.run_sync(self._look, False)
            said = tuple(self._problems())
        if said != self._said or self.pairs != before:
            for problem in sorted(set(said) - set(self._said)):
                log.error("%s", problem)
            self._said = said
            self._changed()

    def _look(self, wanted_anew: bool) -> None:
        """In a thread of its own: disks may hang."""
        for files, one in list(self._kept.items()):
            if self._directory is None:
                one.wrong = "the settings of this sidecar name no `certificateDir`"
                continue
            seen = tuple(reading.signature(self._directory, name) for name in (files.certificate, files.key))
            if seen == one.seen and not one.wrong:
                continue
            self._read(self._directory, files, one)
            one.seen = (seen[0], seen[1])
        if wanted_anew:
            self._store.keep_only(self._kept)

    def _read(self, directory: Path, files: CertificateFiles, one: _Kept) -> None:
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        try:
            checked = check(reading.read(directory, files.certificate), reading.read(directory, files.key), now)
        except BadCertificate as error:
            if not one.wrong:
                one.wrong_since = self._clock()
            one.wrong = str(error)
            if one.good is None:
                one.good = self._saved(files, now)
            return
        one.wrong = ""
        if one.good is None or one.good.pair != checked.pair:
            one.good = checked
            try:
                self._store.save(files, checked.pair)
            except OSError as error:
                log.error("the certificate %s could not be kept for the next start: %s", files, error)

    def _saved(self, files: CertificateFiles, now: datetime.datetime) -> Checked | None:
        saved = self._store.load(files)
        if saved is None:
            return None
        try:
            return check(*saved, now)
        except BadCertificate:
            return None

    def _problems(self) -> list[Problem]:
        now = self._clock()
        found = []
        for files, one in sorted(self._kept.items()):
            remedy = "see docs/gateway.md, Certificates"
            if one.wrong and (one.good is None or now - one.wrong_since >= PATIENCE_S):
                keeps = "keeps the last good one" if one.good is not None else "there is none to use"
                found.append(Problem(one.of, f"certificate {files}: {one.wrong}; {keeps}", "", remedy))
            elif one.good is not None:
                end = one.good.expires
                left = end - datetime.datetime.fromtimestamp(now, datetime.UTC)
                if left < min(WARN_BEFORE, one.good.lifetime / WARN_PART):
                    text = f"certificate {files}: ends on {end:%Y-%m-%d %H:%M} UTC, and nobody has renewed it"
                    found.append(Problem(one.of, text, "", remedy))
        return found

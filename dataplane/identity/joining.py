"""How this host joins the mesh: by the token of its join file, or by a certificate of its own; and as what.

What comes back is not believed here: `keeper.py` checks it.
"""

import logging
from collections.abc import Callable

import msgspec

from dataplane.identity.attest import HostSource
from dataplane.identity.check import from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.material import Identity, key_to_pem, new_key, signing_request
from schemas import codec
from schemas.api import mesh_pb2
from schemas.errors import Corrupt, InvalidInput, PermissionDenied, Problem, Unauthenticated, Unavailable
from schemas.joinfile import JoinFile
from schemas.names import ServiceRef, SpiffeId
from schemas.records import TrustBundle
from schemas.selectors import ServiceSelector

log = logging.getLogger("mesh.identity")

JoinSource = Callable[[], JoinFile | None]
"""The join file as it is now, None where there is none. Raises InvalidInput for a bad one."""


class Joining:
    """Remembers which token is used up. The arguments are those of `IdentityKeeper`."""

    def __init__(
        self,
        client: ReplicaClient,
        join: JoinSource,
        *,
        clock: Callable[[], float],
        host: HostSource | None,
        wanted: ServiceRef | None,
    ) -> None:
        self._client = client
        self._join = join
        self._clock = clock
        self._host = host
        self._wanted = wanted
        self._spent_token: str | None = None
        self._perhaps_spent = False

    def file(self) -> JoinFile:
        """Raises InvalidInput where there is no certificate to show and no join file has a token that may be good."""
        file = self._join()
        if file is None:
            raise InvalidInput(_NOTHING)
        if self._host is not None:
            return file
        if not file.token:
            raise InvalidInput(Problem("join file", "it has no token", remedy=f"{_REMEDY}, or set attest.x509"))
        if file.token == self._spent_token:
            raise InvalidInput(Problem("join file", "its token has been used", remedy=_REMEDY))
        if file.expires <= self._clock():
            raise InvalidInput(Problem("join file", "its token has expired", remedy=_REMEDY))
        return file

    def file_anew(self, current: Identity) -> JoinFile | None:
        """One for the same identity as `current`, whose token may still be good, or that needs none."""
        try:
            file = self._join()
            if file is None or self.expected(file) != current.spiffe_id:
                return None
        except InvalidInput as error:
            log.warning("ignored the join file: %s", error)
            return None
        if self._host is None and (file.token in ("", self._spent_token) or file.expires <= self._clock()):
            return None
        return file

    def endpoints(self) -> tuple[str, ...]:
        try:
            file = self._join()
        except InvalidInput:
            return ()
        return () if file is None else file.join_endpoints

    def expected(self, file: JoinFile) -> SpiffeId:
        """What this sidecar is to be. Raises InvalidInput where the settings don't say, or contradict the join file."""
        wanted = self._wanted
        if file.namespace:
            held = ServiceSelector.of(file.namespace, file.service)
            wanted = wanted or held.only
            if wanted is not None and not held.selects(wanted):
                remedy = "correct the settings, or make another join file"
                raise InvalidInput(Problem("join file", f"it is for {held}, the settings say {wanted}", remedy=remedy))
        if wanted is None:
            text = "it is for more than one service, and the settings name none"
            raise InvalidInput(Problem("join file", text, remedy="set attest.joinToken.service or attest.x509.service"))
        return SpiffeId.of_service(file.trust_domain, wanted)

    def expected_of(self, kept: Identity) -> SpiffeId | None:
        """What settings and join file say that this is; None where neither says so: a kept identity is enough."""
        if self._wanted is not None:
            return SpiffeId.of_service(kept.spiffe_id.trust_domain, self._wanted)
        try:
            file = self._join()
            return None if file is None else self.expected(file)
        except InvalidInput:
            return None

    async def ask(self, file: JoinFile, known: TrustBundle | None) -> Identity:
        """As what a replica lets this host in, unchecked; `known`: the newest bundle that this host has.

        Raises Unauthenticated or PermissionDenied where it is refused, Unavailable where no replica answers.
        """
        file = _trusting(file, known)
        key, etcd_key = new_key(), new_key()
        csr, etcd_csr = signing_request(key), signing_request(etcd_key)
        if self._host is not None:
            reply = await self._client.join_by_possession(file, self._host(), csr, etcd_csr)
        else:
            reply = await self._use_token(file, csr, etcd_csr)
        return from_reply(reply, key_to_pem(key), key_to_pem(etcd_key))

    async def _use_token(self, file: JoinFile, csr: bytes, etcd_csr: bytes) -> mesh_pb2.IdentityReply:
        try:
            reply = await self._client.join(file, csr, etcd_csr, service=self._wanted)
        except Unavailable as error:
            self._perhaps_spent |= error.outcome_unknown
            raise
        except (Unauthenticated, PermissionDenied) as error:
            self._spent_token = file.token
            if not self._perhaps_spent:
                raise
            hint = "an earlier attempt, whose answer was lost, may have used the token"
            raise type(error)(f"{error}; {hint}: {_REMEDY}") from error
        self._spent_token = file.token
        self._perhaps_spent = False
        return reply


def _trusting(file: JoinFile, known: TrustBundle | None) -> JoinFile:
    """With the newest bundle that this host knows: since the join file was written, roots may have been replaced."""
    if known is None or known.trust_domain != file.trust_domain:
        return file
    try:
        written = codec.decode(file.trust_bundle, TrustBundle, "trust bundle of the join file")
    except Corrupt:
        return file  # the client says what is wrong with it
    if known.sequence <= written.sequence:
        return file
    return msgspec.structs.replace(file, trust_bundle=codec.encode(known))


_REMEDY = "make a new one with `meshadm token create`"

_NOTHING = Problem(
    "identity",
    "this sidecar has none that it can use, and there is no join file",
    remedy="make one with `meshadm token create` and name it as `join` in the sidecar's configuration",
)

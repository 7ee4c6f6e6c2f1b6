"""[edge] Attestation by an X.509 certificate that the host has already: a challenge signed with its key.

Which certificates, and what their holders may be, is said by HostAuthority records under ``control/attestors/``, asked
of etcd at each join, so that one that was taken away counts no more.
"""

from collections.abc import Callable

from cryptography import x509

from controlplane.api.attestors.interface import Attestation
from controlplane.api.call import Call
from controlplane.ca import host_rules
from controlplane.ca.challenge import KEY_BYTES, RANDOM_BYTES, Challenges
from controlplane.domain.floors import authority_left
from controlplane.floors import Floors
from controlplane.store.etcd import Store
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, Unauthenticated
from schemas.records import HostAuthority
from schemas.selectors import ServiceSelector
from spiffe import possession
from spiffe.possession import InvalidProof
from spiffe.x509 import UNREADABLE


class X509Possession:
    """`trust_domain`: of the mesh, once it is known. `now`: seconds since 1970. `random(n)`: n unpredictable bytes.

    floors: what no restore of etcd brings back; None: whatever etcd has counts.
    """

    def __init__(
        self,
        store: Store,
        trust_domain: Callable[[], str],
        now: Callable[[], float],
        random: Callable[[int], bytes],
        floors: Floors | None = None,
    ) -> None:
        self._store = store
        self._floors = floors
        self._trust_domain = trust_domain
        self._now = now
        self._random = random
        self.challenges = Challenges(random(KEY_BYTES))
        """What this replica has given out, for any proof of possession."""

    def challenge(self) -> pb.ChallengeReply:
        nonce, end = self.challenges.make(self._random(RANDOM_BYTES), self._now())
        return pb.ChallengeReply(nonce=nonce, expires=end, trust_domain=self._trust_domain())

    async def attest(self, message: pb.JoinRequest, call: Call) -> Attestation:
        proof, now = message.x509, self._now()
        call.tell(attestor="x509_pop")
        # What costs least comes first: strangers may call this.
        self.challenges.check(proof.nonce, now)
        chain = possession.parse_host_chain(proof.chain)
        names = host_rules.names_of(chain[0])
        call.tell(host=names)
        signed = possession.statement(
            trust_domain=self._trust_domain(),
            nonce=proof.nonce,
            namespace=message.namespace,
            service=message.service,
            csr=message.csr,
            etcd_csr=message.etcd_csr,
            leaf=proof.chain[0],
        )
        possession.check_signature(chain[0], proof.signature, signed)
        selectors, authorities = await self._vouched_for(chain, names, now)
        call.tell(authority=", ".join(authorities), host_serial=f"{chain[0].serial_number:x}")

        async def use(identity: str, seconds: float) -> None:
            self.challenges.answer(proof.nonce, self._now())

        return Attestation(selectors, f"the host certificate of {names}", use)

    async def _vouched_for(
        self, chain: tuple[x509.Certificate, ...], names: host_rules.HostNames, now: float
    ) -> tuple[tuple[ServiceSelector, ...], list[str]]:
        """What the rules of those authorities allow that the chain leads to, and their names."""
        selectors: set[ServiceSelector] = set()
        trusted: list[str] = []
        reasons: list[str] = []
        for authority in await self._authorities():
            try:
                anchors = [x509.load_der_x509_certificate(der) for der in authority.x509_authorities]
                possession.check_host_chain(chain, anchors, now)
            except (InvalidProof, *UNREADABLE) as error:
                reasons.append(f"{authority.name}: {error}")
                continue
            trusted.append(authority.name)
            selectors.update(host_rules.selectors_for(names, authority.rules))
        if not trusted:
            said = "; ".join(reasons) or "there are none: see `meshadm attestor x509 add`"
            raise Unauthenticated(f"no host authority vouches for the certificate of {names} ({said})")
        if not selectors:
            raise Unauthenticated(f"no rule of {', '.join(trusted)} is for a certificate of {names}")
        return tuple(sorted(selectors, key=str)), trusted

    async def _authorities(self) -> list[HostAuthority]:
        """One that can't be read vouches for nobody; the others go on."""
        listing = await self._store.list(self._store.keyspace.attestors())
        found: list[HostAuthority] = []
        for kv in listing.kvs:
            try:
                stored = codec.decode(kv.value, HostAuthority, kv.key.decode("utf-8", "backslashreplace"))
            except Corrupt:
                continue
            left = authority_left(stored, self._floors.authority(stored.name)) if self._floors is not None else stored
            if left is not None:
                found.append(left)
        return found

"""For what an app's sidecar reads HTTP at a port whose bytes it could pass on (`ServicePort.passes_bytes`)."""

from collections.abc import Iterator

from dataplane.compile import passing, rate_limits, tokens
from dataplane.compile.authorization import Judging, rules_for
from dataplane.compile.telemetry import asked_of_servers
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from schemas.objects.authorization import AuthorizationPolicy
from schemas.objects.rate_limit import RateLimitPolicy
from schemas.objects.service import ServicePort

UNABLE = "the agent, which can't end what is open"


def read_for(
    state: MeshState, workload: Workload, port: ServicePort, judging: Judging | None = None
) -> tuple[str, ...]:
    """``Kind namespace/name[rule]`` of each object that is about requests, not connections; and the agent, where it
    can't end what a change of rules denies. None: bytes pass.

    judging: of the port, where the caller has it.
    """
    own = workload.service
    judging = judging or rules_for(state, own, workload.trust_domain, port)
    limits = rate_limits.rules_of(state.rate_limits(own.namespace), own, port)
    found = [
        *(f"{AuthorizationPolicy.__name__} {name}" for name in sorted(_of_requests(judging))),
        *(f"{RateLimitPolicy.__name__} {name}" for name, _ in limits),
        *(str(one.ref) for one in tokens.authentications_of(state, own)),
        *(str(one.ref) for one in asked_of_servers(state.telemetries(own))),
    ]
    if not workload.ends_open:
        found.append(UNABLE)
    return tuple(dict.fromkeys(found))


def _of_requests(judging: Judging) -> Iterator[str]:
    for rbac in (judging.deny, judging.allow):
        yield from (name for name, policy in rbac.policies.items() if not passing.judges_identities_only(policy))
    yield from judging.audit.policies if judging.audit is not None else ()

"""What a service is told of a call, beside the request, and what it tells of it for the audit. Pure."""

from dataclasses import dataclass, field

from controlplane.api.caller import Caller

# For a caller that sets no deadline: long enough for an election of etcd, short enough that a person still waits.
DEFAULT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """`seconds`: how long the caller waits for the answer."""

    caller: Caller
    seconds: float = DEFAULT_SECONDS
    facts: dict[str, object] = field(default_factory=dict)
    """What the audit says of it, beside who, from where, which RPC and what came of it."""

    refused_parts: list[str] = field(default_factory=list)
    """What was refused within a call that was accepted, and why: each is an event of the audit."""

    def refuse_part(self, why: str) -> None:
        self.refused_parts.append(why)

    def tell(self, **facts: object) -> None:
        """For the audit, as soon as it is known: a call that is refused later has told it too. Nothing secret."""
        self.facts.update(facts)

"""What a `RateLimitPolicy` must hold beyond its own schema: each rule limits something of each service. Pure."""

from collections.abc import Iterator

from controlplane.domain.federation import identity_problems
from controlplane.domain.known import After
from controlplane.domain.references import references
from schemas.errors import Problem
from schemas.objects import RateLimitPolicy, Service
from schemas.objects.rate_limit import RateLimitRule


def rate_limit_problems(policy: RateLimitPolicy, after: After, subject: str) -> Iterator[Problem]:
    targets = [reference.target for reference in references(policy)]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            yield Problem(subject, f"names {target} twice", f"$.spec.targetRefs[{index}]", "name it once")
    found = [after.get(target) for target in targets]
    services = [one for one in found if isinstance(one, Service)]
    for number, rule in enumerate(policy.spec.rules):
        path = f"$.spec.rules[{number}]"
        if services and len(services) == len(targets):  # a broken reference is said elsewhere
            yield from _port_problems(rule, services, path, subject)
        for index, source in enumerate(rule.from_ or ()):
            for place, identity in enumerate(source.identities or ()):
                yield from identity_problems(identity, f"{path}.from[{index}].identities[{place}]", subject)


def _port_problems(rule: RateLimitRule, services: list[Service], path: str, subject: str) -> Iterator[Problem]:
    known = {port.port: port for service in services for port in service.spec.ports}
    for place, number in enumerate(rule.ports or ()):
        if number not in known:
            remedy = f"their ports are {', '.join(map(str, sorted(known)))}"
            yield Problem(subject, f"no targeted service has port {number}", f"{path}.ports[{place}]", remedy)
    limited = [known[number] for number in rule.ports or known if number in known]
    tells_apart = bool(rule.matches) and not any(one.is_any for one in rule.matches)
    if tells_apart and limited and all(port.protocol == "tcp" for port in limited):
        message = "of a tcp port nothing is known but who calls"
        yield Problem(subject, message, f"{path}.matches", "leave it out: connections are counted")

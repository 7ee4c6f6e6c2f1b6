"""What AUDIT policies would have denied, as Envoy has counted it, rule by rule. Pure."""

import re

_AUDIT = re.compile(r"http\.inbound\|.+\.([a-z0-9-]+/[a-z0-9-]+\[[0-9]+\])\.shadow_denied: ([0-9]+)")


def audits(text: str) -> dict[str, int]:
    """text: of `Admin.audits`. Of all ports together; also of rules that are not in force any more."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = _AUDIT.fullmatch(line)
        if match is not None:
            found[match[1]] = found.get(match[1], 0) + int(match[2])
    return found

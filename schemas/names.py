"""Names, parsed once and typed from then on. A value of these types is valid by construction.

SPIFFE-ID standard, sections 2.1 to 2.4: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
"""

import re
from dataclasses import dataclass
from typing import Self

from schemas.errors import InvalidInput, Problem

# RFC 1123 label: what a DNS name, a file name, a systemd instance and an etcd key can all carry unescaped.
NAME_PATTERN = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
NAME_EXPECTED = "1 to 63 of a-z, 0-9 and '-', not first or last '-'"
_NAME = re.compile(NAME_PATTERN)

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")  # 255 bytes: SPIFFE-ID 2.1
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
MAX_SPIFFE_ID_BYTES = 2048  # SPIFFE-ID 2.3: longer must not be generated

SYSTEM_NAMESPACE = "mesh-system"  # holds what belongs to the whole mesh


def check_name(value: str, what: str) -> str:
    """`value` if it is a valid name; raises InvalidInput that says what was expected of `what`."""
    if not _NAME.fullmatch(value):
        raise InvalidInput(Problem(what, f"{value!r} is not a valid name", remedy=f"use {NAME_EXPECTED}"))
    return value


def _bad_id(text: str, why: str) -> InvalidInput:
    return InvalidInput(
        Problem(f"SPIFFE ID {text[:80]!r}", why, remedy="write spiffe://<trust domain>/ns/<ns>/svc/<name>")
    )


def check_trust_domain(value: str) -> str:
    """`value` if it is a valid trust domain name (SPIFFE-ID 2.1); raises InvalidInput."""
    if not _TRUST_DOMAIN.fullmatch(value):
        raise InvalidInput(
            Problem(f"trust domain {value[:80]!r}", "not valid", remedy="use 1 to 255 of a-z, 0-9, '.', '_' and '-'")
        )
    return value


@dataclass(frozen=True, slots=True, order=True)
class ServiceRef:
    """A service by namespace and name; ``str()`` gives ``<name>.<namespace>``, as in its host name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}"

    @classmethod
    def parse(cls, text: str, default_namespace: str | None = None) -> Self:
        """``orders.shop``, or ``orders`` where a default namespace is given. Raises InvalidInput."""
        name, dot, namespace = text.partition(".")
        if not dot:
            if default_namespace is None:
                raise InvalidInput(Problem(f"service {text!r}", "has no namespace", remedy="write <name>.<namespace>"))
            namespace = default_namespace
        return cls(check_name(namespace, "namespace"), check_name(name, "service name"))


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """One object of the desired state."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID. `path` is empty (a trust domain) or starts with '/'."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidInput. Scheme and trust domain are case-insensitive, the path is not (SPIFFE-ID 2.4)."""
        if len(text.encode(errors="replace")) > MAX_SPIFFE_ID_BYTES:
            raise _bad_id(text, f"longer than {MAX_SPIFFE_ID_BYTES} bytes")
        if text[:9].lower() != "spiffe://":
            raise _bad_id(text, "the scheme is not spiffe://")
        authority, slash, rest = text[9:].partition("/")
        # .lower() could map a foreign letter to ASCII (the Kelvin sign to k): only ASCII may reach it.
        domain = authority.lower() if authority.isascii() else authority
        if not _TRUST_DOMAIN.fullmatch(domain):
            raise _bad_id(text, "the trust domain is not 1 to 255 of a-z, 0-9, '.', '_' and '-'")
        if not slash:
            return cls(domain, "")
        for segment in rest.split("/"):
            if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
                raise _bad_id(
                    text, "a path segment is empty, '.', '..', or has other than a-z, A-Z, 0-9, '.', '_', '-'"
                )
        return cls(domain, f"/{rest}")

    @classmethod
    def of_service(cls, trust_domain: str, service: ServiceRef) -> Self:
        return cls(trust_domain, f"/ns/{service.namespace}/svc/{service.name}")

    @classmethod
    def of_control_plane(cls, trust_domain: str) -> Self:
        return cls(trust_domain, "/control-plane")

    @classmethod
    def of_operator(cls, trust_domain: str, name: str) -> Self:
        return cls(trust_domain, f"/operator/{name}")

    @property
    def service(self) -> ServiceRef | None:
        """The service whose identity this is; None for replicas, operators and foreign shapes."""
        match self.path.split("/"):
            case ["", "ns", namespace, "svc", name] if _NAME.fullmatch(namespace) and _NAME.fullmatch(name):
                return ServiceRef(namespace, name)
        return None


# The name that every replica's serving certificate carries beside its SPIFFE ID. Only the CA's template for replicas
# sets it, so a client that insists on it talks to a replica and to nothing else of the trust domain.
CONTROL_PLANE_SERVER_NAME = "control-plane.mesh.internal"

"""What `meshadm init` is told, and what it says of its steps: the contract between the command line and the work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.keys import DEFAULT_PREFIX

Outcome = Literal["done", "already", "warning"]
"""done: made now. already: found as it should be, nothing changed. warning: goes on, but somebody should read it."""


@dataclass(frozen=True, slots=True)
class InitOptions:
    """Addresses are ``host:port``; an IPv6 host stands in brackets.

    directory: where the files go; made where it is missing.
    etcd: etcd's client addresses, tried in this order.
    etcd_hosts: DNS names and IP addresses in etcd's server certificate; the hosts of `etcd` where empty.
    api, join, socket: where this replica listens: mTLS, server-auth TLS, and a Unix socket for root.
    files_only: stop after the files, before etcd is needed.
    allow_known_bad_etcd: go on, with a warning, with an etcd whose access control is known to have holes.
    etcd_timeout_seconds: how long an etcd that does not answer is waited for.
    """

    directory: Path
    trust_domain: str
    etcd: tuple[str, ...] = ("127.0.0.1:2379",)
    etcd_hosts: tuple[str, ...] = ()
    api: str = "127.0.0.1:7443"
    join: str = "127.0.0.1:7444"
    socket: Path = Path("/run/mesh/controlplane/api.sock")
    prefix: str = DEFAULT_PREFIX
    files_only: bool = False
    allow_known_bad_etcd: bool = False
    etcd_timeout_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step, as soon as it is over. `subject`: what it was about; `detail`: one line for people, never a secret."""

    subject: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InitResult:
    """complete: the mesh exists in etcd (False after `files_only`). created: this very run made it."""

    trust_domain: str
    config: Path
    complete: bool
    created: bool


Report = Callable[[Step], None]

"""[edge] Who may do what in etcd: users, roles, grants, then authentication on. Every step looks before it acts.

Users are roles of the mesh, not hosts (each change of a user has etcd rebuild its permission cache), and come with a
client certificate whose common name is theirs: none has a password.
"""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio_etcd
from controlplane.bootstrap.layout import REPLICA_USER, ROOT_USER, SIDECAR_USER, TOOLING_USER
from controlplane.bootstrap.options import Report, Step
from controlplane.store.version import judge
from schemas.errors import PermissionDenied, Unavailable
from schemas.keys import Keyspace
from trio_etcd import Client
from trio_etcd.auth import Access, Auth, Permission


@dataclass(frozen=True, slots=True)
class Role:
    """A role of etcd, with the user of the same name that has it and nothing else."""

    name: str
    permissions: frozenset[Permission]


def roles(keyspace: Keyspace) -> tuple[Role, ...]:
    """What each kind of client may do. Pure."""

    def read(prefix: bytes) -> Permission:
        return Permission.prefix(Access.READ, prefix)

    whole = f"{keyspace.prefix}/".encode()
    return (
        Role(REPLICA_USER, frozenset({Permission.prefix(Access.READWRITE, whole)})),
        Role(SIDECAR_USER, frozenset({read(keyspace.data())})),
        Role(TOOLING_USER, frozenset({read(keyspace.data()), read(keyspace.statuses())})),
    )


@contextmanager
def translated(how_to_start: str) -> Iterator[None]:
    """etcd's errors as ours; `how_to_start`: the command line of an etcd with the files of this init."""
    try:
        yield
    except trio_etcd.CredentialsRefused as error:
        raise Unavailable(
            f"{error}; this etcd was not started with the files of this init. Start it so: {how_to_start}"
        ) from error
    except (trio_etcd.PermissionDenied, trio_etcd.Unauthenticated) as error:
        raise PermissionDenied(
            f"{error}; etcd does not take {ROOT_USER}'s certificate for its administrator: is --client-cert-auth on?"
        ) from error
    except trio_etcd.Unavailable as error:
        raise Unavailable(
            f"etcd does not answer: {error}; start it with the files of this init, then run the same command again: "
            f"{how_to_start}",
            outcome_unknown=error.maybe_applied,
        ) from error
    except trio_etcd.EtcdError as error:
        raise Unavailable(str(error), outcome_unknown=error.maybe_applied) from error


async def check_versions(client: Client, *, allow_known_bad: bool) -> list[Step]:
    """One step a member. Raises Unavailable for one whose access control is known not to hold, unless allowed.

    A member that does not answer is a warning, as long as another does.
    """
    steps: list[Step] = []
    unreachable: list[trio_etcd.Unavailable] = []
    for endpoint in sorted(client.endpoints):
        try:
            status = await client.status(endpoint)
        except trio_etcd.Unavailable as error:
            unreachable.append(error)
            steps.append(Step(f"etcd at {endpoint}", "warning", "does not answer; its version is not known"))
            continue
        known = judge(trio_etcd.parse_version(status.version))
        if known.refuse and not allow_known_bad:
            raise Unavailable(
                f"etcd at {endpoint} is refused: {known.refuse}; upgrade it, or, only to try the mesh out, give "
                "--allow-known-bad-etcd"
            )
        concern = known.refuse or known.warn
        steps.append(Step(f"etcd at {endpoint}", "warning" if concern else "already", concern or status.version))
    if len(unreachable) == len(steps):
        raise unreachable[0]
    return steps


async def grant(client: Client, keyspace: Keyspace, report: Report) -> None:
    """Users, roles and grants as `roles` says, no more and no less; then authentication on."""
    auth = Auth(client)
    report(await _administrator(auth))
    for role in roles(keyspace):
        report(await _role(auth, role))
    on = await auth.enabled()
    if not on:
        await auth.enable()
    report(Step("etcd's authentication", "already" if on else "done", "on"))


async def _administrator(auth: Auth) -> Step:
    """etcd's `root`, without whom it does not let authentication be turned on."""
    made = await _ensure_user(auth, ROOT_USER, ROOT_USER)
    return Step(f"etcd user {ROOT_USER}", "done" if made else "already", "administrator")


async def _role(auth: Auth, role: Role) -> Step:
    changed = False
    if role.name not in await auth.roles():
        await _unless_there(auth.add_role(role.name))
        changed = True
    present = set(await auth.permissions(role.name))
    # Grants before revocations: a replica that runs meanwhile never loses what it needs.
    for permission in sorted(role.permissions - present, key=_order):
        await auth.grant_permission(role.name, permission)
        changed = True
    ranges = {(permission.key, permission.range_end) for permission in role.permissions}
    for permission in sorted(present - role.permissions, key=_order):
        if (permission.key, permission.range_end) not in ranges:  # else the grant has replaced it
            with suppress(trio_etcd.NotFound):
                await auth.revoke_permission(role.name, permission.key, permission.range_end)
            changed = True
    changed |= await _ensure_user(auth, role.name, role.name)
    detail = ", ".join(f"{one.access.value.lower()} {one.key.decode()}" for one in sorted(role.permissions, key=_order))
    return Step(f"etcd user {role.name}", "done" if changed else "already", detail)


async def _ensure_user(auth: Auth, user: str, role: str) -> bool:
    """The user with exactly that role. True if anything had to be changed."""
    changed = False
    if user not in await auth.users():
        await _unless_there(auth.add_user(user))
        changed = True
    if role == ROOT_USER and role not in await auth.roles():
        await _unless_there(auth.add_role(role))
        changed = True
    present = set(await auth.roles_of(user))
    if role not in present:
        await auth.grant_role(user, role)
        changed = True
    for surplus in sorted(present - {role}):
        with suppress(trio_etcd.NotFound):
            await auth.revoke_role(user, surplus)
        changed = True
    return changed


async def _unless_there(call: Awaitable[None]) -> None:
    """Another init, or an answer of ours that got lost, may have been first."""
    with suppress(trio_etcd.AlreadyExists):
        await call


def _order(permission: Permission) -> tuple[bytes, bytes]:
    return permission.key, permission.range_end

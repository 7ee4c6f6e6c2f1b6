"""Administration of etcd's users, roles and permissions. Users are the CNs of client certificates: no passwords."""

import enum
from dataclasses import dataclass

from ._proto import etcd_pb2 as pb
from .client import Client
from .types import prefix_range

_SERVICE = "/etcdserverpb.Auth/"


class Access(enum.Enum):
    """What a permission allows."""

    READ = "READ"
    WRITE = "WRITE"
    READWRITE = "READWRITE"


@dataclass(frozen=True, slots=True)
class Permission:
    """`access` to a key, or to `[key, range_end)`."""

    access: Access
    key: bytes
    range_end: bytes = b""

    @classmethod
    def prefix(cls, access: Access, prefix: bytes) -> "Permission":
        """For everything under `prefix`."""
        return cls(access, *prefix_range(prefix))


class Auth:
    """`Auth(client)`. Every change makes etcd rebuild its permission cache: change roles, not users, and rarely."""

    def __init__(self, client: Client) -> None:
        self._calls = client.calls

    async def enabled(self) -> bool:
        """Whether auth is on."""
        response = await self._calls.read(_SERVICE + "AuthStatus", pb.AuthStatusRequest(), pb.AuthStatusResponse)
        return response.enabled

    async def enable(self) -> None:
        """Switch auth on. etcd demands a user `root` with the role `root` first (InvalidRequest)."""
        await self._calls.write(_SERVICE + "AuthEnable", pb.AuthEnableRequest(), pb.AuthEnableResponse)

    async def disable(self) -> None:
        """Switch auth off."""
        await self._calls.write(_SERVICE + "AuthDisable", pb.AuthDisableRequest(), pb.AuthDisableResponse)

    async def users(self) -> tuple[str, ...]:
        """All users' names."""
        response = await self._calls.read(_SERVICE + "UserList", pb.AuthUserListRequest(), pb.AuthUserListResponse)
        return tuple(response.users)

    async def add_user(self, name: str) -> None:
        """A user without password, who can only come with a certificate. Raises AlreadyExists."""
        request = pb.AuthUserAddRequest(name=name, options=pb.UserAddOptions(no_password=True))
        await self._calls.write(_SERVICE + "UserAdd", request, pb.AuthUserAddResponse)

    async def delete_user(self, name: str) -> None:
        """Raises NotFound. Connections and watches that are open go on."""
        request = pb.AuthUserDeleteRequest(name=name)
        await self._calls.write(_SERVICE + "UserDelete", request, pb.AuthUserDeleteResponse)

    async def roles_of(self, user: str) -> tuple[str, ...]:
        """The roles granted to a user. Raises NotFound."""
        request = pb.AuthUserGetRequest(name=user)
        return tuple((await self._calls.read(_SERVICE + "UserGet", request, pb.AuthUserGetResponse)).roles)

    async def grant_role(self, user: str, role: str) -> None:
        """Repeating it changes nothing. Raises NotFound."""
        request = pb.AuthUserGrantRoleRequest(user=user, role=role)
        await self._calls.write(_SERVICE + "UserGrantRole", request, pb.AuthUserGrantRoleResponse)

    async def revoke_role(self, user: str, role: str) -> None:
        """Raises NotFound when it was not granted."""
        request = pb.AuthUserRevokeRoleRequest(name=user, role=role)
        await self._calls.write(_SERVICE + "UserRevokeRole", request, pb.AuthUserRevokeRoleResponse)

    async def roles(self) -> tuple[str, ...]:
        """All roles' names."""
        response = await self._calls.read(_SERVICE + "RoleList", pb.AuthRoleListRequest(), pb.AuthRoleListResponse)
        return tuple(response.roles)

    async def add_role(self, name: str) -> None:
        """Raises AlreadyExists."""
        await self._calls.write(_SERVICE + "RoleAdd", pb.AuthRoleAddRequest(name=name), pb.AuthRoleAddResponse)

    async def delete_role(self, name: str) -> None:
        """Raises NotFound."""
        request = pb.AuthRoleDeleteRequest(role=name)
        await self._calls.write(_SERVICE + "RoleDelete", request, pb.AuthRoleDeleteResponse)

    async def permissions(self, role: str) -> tuple[Permission, ...]:
        """The permissions of a role, in etcd's order. Raises NotFound."""
        response = await self._calls.read(
            _SERVICE + "RoleGet", pb.AuthRoleGetRequest(role=role), pb.AuthRoleGetResponse
        )
        return tuple(
            Permission(Access(pb.Permission.Type.Name(one.permType)), one.key, one.range_end) for one in response.perm
        )

    async def grant_permission(self, role: str, permission: Permission) -> None:
        """Replaces what the role had on exactly this range. Raises NotFound."""
        granted = pb.Permission(
            permType=permission.access.value,
            key=permission.key,
            range_end=permission.range_end,
        )
        request = pb.AuthRoleGrantPermissionRequest(name=role, perm=granted)
        await self._calls.write(_SERVICE + "RoleGrantPermission", request, pb.AuthRoleGrantPermissionResponse)

    async def revoke_permission(self, role: str, key: bytes, range_end: bytes = b"") -> None:
        """Raises NotFound when the role has none on exactly this range."""
        request = pb.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=range_end)
        await self._calls.write(_SERVICE + "RoleRevokePermission", request, pb.AuthRoleRevokePermissionResponse)

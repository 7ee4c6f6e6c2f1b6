"""[edge] What the commands have in common: connection, output format, and how a command ends when it fails."""

import os
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import trio
from click.shell_completion import CompletionItem

from controlplane.exit_codes import ExitCode
from controlplane.meshadm import login_store, output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.connection import DEFAULT_ENDPOINT, Connection, connection
from controlplane.meshadm.errors import exit_code
from controlplane.meshadm.kinds import kind_of, words_of
from controlplane.meshadm.login_store import Login
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, MeshError, Unavailable
from schemas.objects import KINDS

T = TypeVar("T")
CommandType = TypeVar("CommandType", bound=Callable[..., object])

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
RENEW_SECONDS = 3.0  # of a command's time, for renewing the login first


class MeshCommand(click.Command):
    """A command with an example in its help, whose errors end it with the documented codes."""

    def __init__(self, *args: Any, example: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for text in self.example.strip().splitlines():
                formatter.write(f"  {text}\n")

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            output.notice("interrupted")
            ctx.exit(EXIT_INTERRUPTED)
        except MeshError as error:
            self._end(ctx, error)
        except BrokenPipeError:
            # The reader of our output has gone (`| head`): nobody is left to tell. Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(ExitCode.OK)
        except Exception as error:
            if os.environ.get("MESHADM_DEBUG"):
                traceback.print_exc()
            text = f"meshadm failed unexpectedly: {type(error).__name__}: {error}"
            self._end(ctx, MeshError(f"{text}\nthis is a bug; with MESHADM_DEBUG=1 it tells where"))

    def _end(self, ctx: click.Context, error: MeshError) -> None:
        code = exit_code(error)
        output.show_error(error, code, ctx.params.get("form", "table"))
        ctx.exit(code)


@dataclass(frozen=True, slots=True)
class Connect:
    """What a command needs to reach a replica. No endpoints: those of the login, else the socket of this host."""

    endpoints: tuple[str, ...]
    identity: Path | None
    call_seconds: float

    def run(self, work: Callable[[MeshClient], Awaitable[T]]) -> T:
        """The command's one trio run."""
        login = self._login()
        endpoints = self._endpoints(login)

        async def main() -> T:
            usable = await self._fresh(login, endpoints) if login else None
            reached = connection(endpoints, self.identity, time.time(), usable.tls if usable else None)
            try:
                with MeshClient(reached, self.call_seconds, output.notice) as client:
                    return await work(client)
            except Unavailable as error:
                if usable is None or error.outcome_unknown:
                    raise
                raise login_store.outdated(error, f"the login as {usable.spiffe_id}") from error

        return trio.run(main)

    async def renew_login(self) -> None:
        """After what may change whom the mesh trusts: the login outlives the present root only if it knows the next."""
        login = self._login()
        if login is not None:
            await self._renewed(login, self._endpoints(login))

    def _endpoints(self, login: Login | None) -> tuple[str, ...]:
        return self.endpoints or (login.api_endpoints if login else (DEFAULT_ENDPOINT,))

    def _login(self) -> Login | None:
        """Who is logged in, where that matters: not beside an identity that was named, and not for sockets."""
        path = login_store.path_of(os.environ)
        sockets = self.endpoints and all(endpoint.startswith("unix:") for endpoint in self.endpoints)
        if self.identity is not None or sockets or path is None:
            return None
        login = login_store.load(path)
        if login is not None:
            login_store.check_time(login, time.time())
        return login

    async def _fresh(self, login: Login, endpoints: tuple[str, ...]) -> Login:
        """Renewed in the second half of its life."""
        return await self._renewed(login, endpoints) if login.due(time.time()) else login

    async def _renewed(self, login: Login, endpoints: tuple[str, ...]) -> Login:
        """Where that fails, the present one is good for as long as it lasts."""
        path = login_store.path_of(os.environ)
        if path is None:
            return login
        key = login_store.new_key()
        request = pb.RenewLoginRequest(csr=login_store.signing_request(key))
        try:
            with MeshClient(Connection(endpoints, login.tls), RENEW_SECONDS, lambda _: None) as client:
                reply = await client.call("/mesh.v1.Identity/RenewLogin", request, pb.OperatorReply)
            fresh = login_store.login_of(reply, key, time.time())
            login_store.save(path, fresh)
        except MeshError:
            return login  # the command itself will say what is wrong, if anything is
        return fresh


class Duration(click.ParamType[float]):
    """``90``, ``90s``, ``15m``, ``1h``, ``7d`` as seconds."""

    name = "duration"
    _UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}  # noqa: RUF012  (a constant)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|[smhd]?)", str(value))
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is not a duration: write 30s, 15m, 1h or 7d", param, ctx)
        return float(match[1]) * self._UNITS[match[2]]


class KindWord(click.ParamType[str]):
    """A kind in any of its forms, as the full one."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return kind_of(str(value))
        except InvalidInput as error:
            self.fail(f"{value!r} is not a kind: {error.problems[0].remedy}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        words = sorted(word for kind in KINDS for word in words_of(kind))
        return [CompletionItem(word) for word in words if word.startswith(incomplete.lower())]


def connects(command: CommandType) -> CommandType:
    """Adds the options that lead to a replica, as the parameter `connect`."""

    @click.option(
        "--endpoint",
        "-e",
        "endpoints",
        multiple=True,
        envvar="MESHADM_ENDPOINT",
        metavar="ADDRESS",
        help="A replica: unix:/path, or host:port. Repeat it for failover."
        f"  [default: those of `meshadm login`, else {DEFAULT_ENDPOINT}; env: MESHADM_ENDPOINT, separated by blanks]",
    )
    @click.option(
        "--identity",
        envvar="MESHADM_IDENTITY",
        type=click.Path(path_type=Path, file_okay=False),
        help="Directory with svid.pem, key.pem and bundle.pem of an operator, instead of the one of `meshadm login`."
        "  [env: MESHADM_IDENTITY]",
    )
    @click.option(
        "--request-timeout", type=Duration(), default="10s", show_default=True, help="How long to wait for an answer."
    )
    @click.pass_context
    def bundled(
        ctx: click.Context, /, endpoints: tuple[str, ...], identity: Path | None, request_timeout: float, **rest: Any
    ) -> object:
        return ctx.invoke(command, connect=Connect(endpoints, identity, request_timeout), **rest)

    return _like(bundled, command)


def _like(wrapper: Any, command: CommandType) -> CommandType:
    """`wrapper` with the name, the help and the click parameters of `command`, whose own come first in the help."""
    wrapper.__name__ = command.__name__
    wrapper.__doc__ = command.__doc__
    wrapper.__click_params__ = [*wrapper.__click_params__, *getattr(command, "__click_params__", [])]
    return wrapper  # type: ignore[no-any-return]  # click hands functions on untyped


def formats(*forms: str) -> Callable[[CommandType], CommandType]:
    """Adds `-o`, as the parameter `form`; the first is the default."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(forms), default=forms[0], show_default=True, help="Output format."
    )

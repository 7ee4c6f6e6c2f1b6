"""`mesh-sidecar`: run the agent, or tell what the one on this host is doing."""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

# gRPC's core writes every refused connection to stderr; what matters comes as an error, which we log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import trio

from dataplane import config, status
from dataplane.agent import Agent
from dataplane.envoy.child import find_envoy
from schemas.errors import Conflict, InvalidInput, MeshError, NotFound, PermissionDenied, Unauthenticated, Unavailable
from trio_grpc import BindError

EXIT_CODES = """exit codes:
  0  ended in good order, or the status was told
  1  a fault of ours, with a traceback
  2  bad settings, join file or arguments
  3  status, config, diff: no sidecar has run here
  4  another agent runs on the same runtime directory
  5  something that is needed is not there: Envoy, a replica, a port
  6  a replica refused us, or a directory is not ours alone
  7  status: the sidecar does not run, or is stale
  8  diff: Envoy runs something else than the model says, or has refused something"""

# The order counts: the first class that fits.
_EXIT_BY_ERROR: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidInput, 2),
    (NotFound, 3),
    (Conflict, 4),
    (Unavailable, 5),
    (BindError, 5),
    (PermissionDenied, 6),
    (Unauthenticated, 6),
    (PermissionError, 6),
    (OSError, 5),
    (MeshError, 5),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mesh-sidecar",
        description="The sidecar of one service instance: agent and Envoy.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = (
        "run: the agent, the default; status: how it is; config: what Envoy runs, in words, and the objects that it "
        "came from; diff: what Envoy runs against what the model says"
    )
    parser.add_argument("command", nargs="?", choices=("run", "status", "config", "diff"), default="run", help=commands)
    parser.add_argument("--config", type=Path, required=True, help="the settings file")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("-o", "--output", default="table", choices=("table", "json"), help="of status, config and diff")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    code = 0
    try:
        code = _run(arguments)
    except* KeyboardInterrupt:
        code = 130  # as shells do: 128 + SIGINT
    except* Exception as group:
        code = _explain(group)
    sys.exit(code)


def _run(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    if arguments.command == "status":
        return _tell_status(settings, arguments.output)
    if arguments.command in ("config", "diff"):
        return _inspect(settings, arguments.command, arguments.output)
    trio.run(Agent(settings, find_envoy(os.environ), os.environ).run)
    return 0


def _tell_status(settings: config.SidecarSettings, output: str) -> int:
    now = time.time()
    content = status.read(settings.status_file, now=now)
    print(json.dumps(content, indent=2) if output == "json" else status.table(content, now=now))
    return 0 if content["agentRuns"] and content["envoyRuns"] and not content["staleSeconds"] else 7


def _inspect(settings: config.SidecarSettings, command: str, output: str) -> int:
    from dataplane.envoy.admin import Admin  # here, because `run` starts sooner without what only this needs
    from dataplane.inspection import view as inspecting

    files = settings, settings.last_good_file, Admin(str(settings.admin_socket))
    if command == "config":
        view = trio.run(inspecting.config, *files)
        print(inspecting.as_json(view) if output == "json" else inspecting.config_text(view))
        return 0
    verdict = trio.run(inspecting.diff, *files)
    print(inspecting.as_json(verdict) if output == "json" else inspecting.diff_text(verdict))
    return 0 if verdict.same and not verdict.refused else 8


def _explain(group: BaseExceptionGroup[Exception]) -> int:
    """One line for what was foreseen; a traceback for what was not."""
    errors = list(_leaves(group))
    for kind, code in _EXIT_BY_ERROR:
        for error in errors:
            if isinstance(error, kind):
                print(f"mesh-sidecar: {error}", file=sys.stderr)
                return code
    logging.getLogger("mesh").error("a fault of ours", exc_info=group)
    return 1


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    main()

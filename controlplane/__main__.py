"""`mesh-controlplane`: one replica of the control plane."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from controlplane import config, log, server
from controlplane.exit_codes import ExitCode, exit_code_of
from schemas.errors import MeshError
from trio_grpc import BindError

DEFAULT_CONFIG = Path("/etc/mesh/controlplane.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: see `controlplane.exit_codes`. 0 after SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="mesh-controlplane", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="configuration file (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="log more")
    options = parser.parse_args(arguments)
    level = logging.DEBUG if options.debug else logging.INFO
    log.set_up(journal="JOURNAL_STREAM" in os.environ, level=level)
    try:
        settings = config.load(options.config)
        if settings.log.format == "json":
            log.set_up(journal=False, level=level, as_json=True)
        trio.run(server.run_until_signal, settings, os.environ)
    except BaseException as error:
        return _end_with(error)
    return ExitCode.OK


def _end_with(error: BaseException) -> int:
    causes = _leaves(error)
    for cause in causes:
        match cause:
            case MeshError():
                print(f"mesh-controlplane: {cause}", file=sys.stderr)
                return exit_code_of(cause)
            case BindError():
                print(f"mesh-controlplane: {cause}", file=sys.stderr)
                return ExitCode.UNAVAILABLE
            case PermissionError():
                print(f"mesh-controlplane: {cause.filename}: permission denied for this user", file=sys.stderr)
                return ExitCode.DENIED
            case OSError():
                print(f"mesh-controlplane: {cause}", file=sys.stderr)
                return ExitCode.BAD_INPUT
            case KeyboardInterrupt():
                return ExitCode.OK
    logging.getLogger("controlplane").critical("ended by a defect of ours", exc_info=error)
    return ExitCode.UNEXPECTED


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())

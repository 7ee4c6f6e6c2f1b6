"""`python -m deploy.demo`: runs the scenario. Exit code 0 only if every line held and nothing is left running."""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

from deploy.demo.local_mesh import LocalMesh
from deploy.demo.processes import Processes, ProcessFailed
from deploy.demo.scenario import Scenario

# Seconds. An idle machine needs about 30; a demo that hangs must say so and end.
DEADLINE_S = 300.0


class Report:
    def __init__(self) -> None:
        self.held = self.failed = 0
        self._colour = sys.stdout.isatty()

    def __call__(self, held: bool, text: str) -> None:
        self.held += held
        self.failed += not held
        mark = "ok  " if held else "FAIL"
        if self._colour:
            mark = f"\033[{32 if held else 31}m{mark}\033[0m"
        print(f"{mark} {text}", flush=True)


async def demo(directory: Path, report: Report, *, keep: bool) -> None:
    processes = Processes(directory / "log")
    try:
        scenario = Scenario(LocalMesh(directory, processes), report)
        with trio.move_on_after(DEADLINE_S) as deadline:
            await scenario.start()
            await scenario.run()
        if deadline.cancelled_caught:
            report(False, f"not done after {DEADLINE_S:.0f} s")
        if keep and not report.failed:
            print("\nIt stays up until Ctrl-C. Try:\n")
            print("\n".join(f"    {line}" for line in scenario.what_to_try()), flush=True)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await signals.__anext__()
            print("\nstopping", flush=True)
    except* ProcessFailed as failures:
        for failure in leaves(failures):
            report(False, str(failure))
    finally:
        await processes.stop_all()
        left = processes.left_over()
        processes.kill_left_over()
    report(not left, "everything stopped, nothing left running" + "".join(f"\n     {c}" for c in left.values()))


def leaves(group: BaseExceptionGroup[ProcessFailed]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="A real mesh on loopback addresses, without root.")
    parser.add_argument("--keep", action="store_true", help="leave it up at the end, until Ctrl-C (make demo KEEP=1)")
    arguments = parser.parse_args()
    report = Report()
    directory = Path(tempfile.mkdtemp(prefix="mesh-demo-"))
    try:
        trio.run(lambda: demo(directory, report, keep=arguments.keep))
    except KeyboardInterrupt:
        report(False, "interrupted")
    print(f"\n{report.held} held, {report.failed} failed")
    if report.failed:
        print(f"The logs are in {directory / 'log'}.")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

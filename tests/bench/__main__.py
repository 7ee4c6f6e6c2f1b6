"""`make bench`: measures every figure, or those named, writes bench-results/*.json and prints the table."""

import argparse
import importlib
import sys

from tests.bench.harness import Figure, table

# In the order in which they run: what needs nothing but this process first.
BENCHMARKS = (
    "compile_cost", "convergence", "burst", "revocation", "data_path", "upstream_protocol", "l4_inbound", "rules",
    "start", "issuing", "renewal_storm",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="default: all", metavar="name")
    names = parser.parse_args().names or BENCHMARKS
    figures: list[Figure] = []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        figures += importlib.import_module(f"tests.bench.{name}").run()
    for one in figures:
        one.write()
    print(table(figures))
    # A miss is printed, not hidden; it is no failure of the run, since the machine has its say in it.
    return 0


if __name__ == "__main__":
    sys.exit(main())

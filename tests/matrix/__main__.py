"""``python -m tests.matrix [-o json] [PATH…]``.

Exit code 1: something that must be held is not; 2: the tests can't be collected, or a mark is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from tests.matrix.collect import CollectionFailed, collect
from tests.matrix.report import as_json, as_text, missing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make matrix", description="which line is held by which tests")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.add_argument("paths", nargs="*", help="files and directories with tests; all of them without any")
    given = parser.parse_args(arguments)
    try:
        held = collect(given.paths)
    except CollectionFailed as error:
        print(f"the tests can't be collected:\n{error}", file=sys.stderr)
        return 2
    print(json.dumps(as_json(held), indent=2) if given.output == "json" else as_text(held))
    return 1 if any(missing(held).values()) else 0


if __name__ == "__main__":
    sys.exit(main())

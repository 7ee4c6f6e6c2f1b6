"""``python -m deploy.etcd``: print the path of a usable etcd, progress on standard error. Exit code 1: none found."""

from __future__ import annotations

import argparse
import sys

from deploy.etcd.locate import EtcdNotFoundError, find_etcd


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.etcd", description="Find or fetch an etcd server.")
    parser.add_argument(
        "--allow-known-bad", action="store_true", help="accept versions whose access control can be bypassed"
    )
    options = parser.parse_args()
    try:
        found = find_etcd(allow_known_bad=options.allow_known_bad)
    except EtcdNotFoundError as why:
        print(f"etcd: {why}", file=sys.stderr)
        return 1
    print(found.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

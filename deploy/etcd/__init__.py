"""Finds or fetches the etcd server that the demo and the tests run. Production brings its own."""

from deploy.etcd.locate import EtcdBinary, EtcdNotFoundError, find_etcd
from deploy.etcd.versions import NO_AUTH_BYPASS, Verdict, Version, judge, parse_version

__all__ = [
    "NO_AUTH_BYPASS",
    "EtcdBinary",
    "EtcdNotFoundError",
    "Verdict",
    "Version",
    "find_etcd",
    "judge",
    "parse_version",
]

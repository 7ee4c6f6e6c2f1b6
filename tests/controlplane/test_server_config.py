from __future__ import annotations

from pathlib import Path

import pytest

from controlplane import config
from schemas.errors import InvalidInput

MINIMAL = """
etcd: {endpoints: ['10.0.0.1:2379'], ca: /a, cert: /b, key: /c}
listen: {api: 0.0.0.0:7443, join: '[::1]:7444', socket: /run/x.sock}
"""


def test_defaults() -> None:
    read = config.parse(MINIMAL, "c.yaml")
    assert read.etcd.prefix == "/mesh/v1"
    assert read.etcd.allow_known_bad is False
    assert read.sidecar_etcd_endpoints == ("10.0.0.1:2379",)
    assert read.advertised_api == ("0.0.0.0:7443",)
    assert read.advertised_join == ("[::1]:7444",)
    assert read.kek_path({"CREDENTIALS_DIRECTORY": "/run/credentials/x"}) == Path("/run/credentials/x/kek")


def test_all_fields() -> None:
    read = config.parse(
        MINIMAL.replace("key: /c", "key: /c, prefix: /a/b, allowKnownBad: true, sidecarEndpoints: ['x:1']")
        + "kek: /kek\nadvertise: {api: ['y:2'], join: ['z:3']}\n",
        "c.yaml",
    )
    assert (read.etcd.prefix, read.etcd.allow_known_bad, read.sidecar_etcd_endpoints) == ("/a/b", True, ("x:1",))
    assert (read.kek_path({}), read.advertised_api, read.advertised_join) == (Path("/kek"), ("y:2",), ("z:3",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "c.yaml"),
        ("[1, 2]", "c.yaml"),
        ("etcd: {", "c.yaml:2:1"),
        (MINIMAL.replace("key: /c", "keyy: /c"), "$.etcd"),
        (MINIMAL.replace("10.0.0.1:2379", "10.0.0.1"), "$.etcd.endpoints[0]"),
        (MINIMAL.replace("ca: /a", "ca: a"), "$.etcd.ca"),
        (MINIMAL.replace("key: /c", "key: /c, prefix: /mesh/"), "$.etcd.prefix"),
        (MINIMAL + "kekk: /x", "kekk"),
        (MINIMAL + "bundleEndpoint: {listen: '0.0.0.0:8443', profile: https_web}", "needs cert and key"),
        (MINIMAL + "bundleEndpoint: {listen: '0.0.0.0:1', profile: https_spiffe, cert: /a, key: /b}", "takes neither"),
        (MINIMAL + "bundleEndpoint: {listen: '0.0.0.0:1', profile: https_spiffe, path: x}", "$.bundleEndpoint.path"),
    ],
)
def test_what_is_wrong_is_named(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config.parse(text, "c.yaml")
    assert told in str(caught.value)


def test_no_kek_anywhere() -> None:
    with pytest.raises(InvalidInput, match="CREDENTIALS_DIRECTORY"):
        config.parse(MINIMAL, "c.yaml").kek_path({})


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        config.load(tmp_path / "nothing.yaml")

"""Whether Envoy has every secret that it uses as it is desired: what a CA rotation waits for."""

from __future__ import annotations

from dataplane.compile.resources import SECRET, Resource, ResourceKey
from tests.dataplane.ads import xds
from tests.dataplane.ads.test_delta import Talk

USER = xds.cluster("a", secret="svid")


def secret(version: str) -> Resource:
    return Resource(ResourceKey(SECRET, "svid"), version, b"body")


def test_what_is_sent_counts_when_it_is_acked() -> None:
    talk = Talk(USER, secret("1"))
    assert not talk.session.secrets_current, "nobody has asked for anything"
    talk.ask("CDS")
    talk.ask("LDS")
    assert not talk.session.secrets_current, "the cluster is about to ask for it"
    talk.ask("SDS", "svid")
    assert not talk.session.secrets_current
    talk.ack("SDS")
    assert talk.session.secrets_current
    talk.update(2, secret("2"))
    assert not talk.session.secrets_current
    talk.ack("SDS", "no good")
    assert not talk.session.secrets_current, "refused is not had"
    talk.update(3, secret("3"))
    talk.ack("SDS")
    assert talk.session.secrets_current


def test_after_a_reconnect_nothing_is_known_until_it_has_said_what_it_holds() -> None:
    talk = Talk(USER, secret("2"))
    talk.ask("CDS", holds=[USER])
    talk.ask("LDS")
    assert not talk.session.secrets_current, "the cluster that it holds uses one"
    talk.ask("SDS", "svid", holds=[secret("1")])
    assert not talk.session.secrets_current, "it holds an old one"
    talk.ack("SDS")
    assert talk.session.secrets_current


def test_who_uses_none_has_all() -> None:
    talk = Talk(xds.cluster("b"), secret("1"))
    talk.ask("CDS")
    talk.ask("LDS")
    assert talk.session.secrets_current

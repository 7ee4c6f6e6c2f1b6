"""The metrics endpoint: what a scraper gets, and what others get."""

from __future__ import annotations

import httpx
import trio
from prometheus_client.parser import text_string_to_metric_families

from telemetry import families
from telemetry.endpoint import serve_metrics


async def test_each_scrape_asks_anew(nursery: trio.Nursery) -> None:
    count = 0

    def ask() -> list[families.Family]:
        nonlocal count
        count += 1
        return [families.counter("asked", "How often.", count), families.expiries({"svid": 1.5, "etcd-client": 2})]

    port = await nursery.start(serve_metrics, families.registry(ask), "127.0.0.1:0")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for number in (1, 2):
            answer = await client.get("/metrics")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain")
            samples = {
                (one.name, *one.labels.values()): one.value
                for family in text_string_to_metric_families(answer.text)
                for one in family.samples
            }
            assert samples == {
                ("hostmesh_asked_total",): number,
                ("hostmesh_certificate_expiry_timestamp_seconds", "svid"): 1.5,
                ("hostmesh_certificate_expiry_timestamp_seconds", "etcd-client"): 2,
            }
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405
    nursery.cancel_scope.cancel()


async def test_who_says_nothing_or_nonsense_is_let_go(nursery: trio.Nursery) -> None:
    registry = families.registry(list)
    port = await nursery.start(lambda **kw: serve_metrics(registry, "127.0.0.1:0", connection_seconds=0.1, **kw))
    for said in (b"", b"nonsense\r\n\r\n", b"GET /metrics HTTP/1.1\r\nx: " + b"x" * 20_000):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with trio.fail_after(5):
                try:
                    await stream.send_all(said)
                    assert await stream.receive_some() == b""
                except trio.BrokenResourceError:
                    pass
    nursery.cancel_scope.cancel()

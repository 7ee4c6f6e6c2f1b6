"""What the demo shows: each step does something to the mesh and checks, with real requests, what must hold."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import trio

from deploy.demo.etcd_access import what_a_sidecar_may
from deploy.demo.load import Load, load
from deploy.demo.local_mesh import POLL_S, TRUST_DOMAIN, Instance, LocalMesh
from deploy.demo.processes import ProcessFailed

SHOP = Path(__file__).parent.parent / "examples" / "shop"
SETTLE_S = 20.0  # seconds; what converges does so in milliseconds, a loaded machine apart

WEB_PORT, ORDERS_PORT, PAYMENTS_PORT, INVENTORY_PORT = 8080, 8080, 9000, 7000

Say = Callable[[bool, str], None]


class Scenario:
    """`say(held, text)` is called once a check."""

    def __init__(self, mesh: LocalMesh, say: Say) -> None:
        self.mesh = mesh
        self._say = say
        self.web = mesh.instance("web.shop", "web-1")
        self.orders = mesh.instance("orders.shop", "orders-1")
        self.orders_2 = mesh.instance("orders.shop", "orders-2")
        self.payments = mesh.instance("payments.shop", "payments-1")
        self.inventory = mesh.instance("inventory.shop", "inventory-1")
        self.reports = mesh.instance("reports.back-office", "reports-1")

    @property
    def shop_front(self) -> str:
        return f"http://{self.web.local}:{WEB_PORT}/buy?item=tea"

    # -- bringing it up

    async def start(self) -> None:
        mesh = self.mesh
        await mesh.init("--files-only")
        await mesh.start_etcd()
        await mesh.init()
        for replica in mesh.replicas:
            await mesh.start_replica(replica)
        self._say(True, f"etcd with TLS, client certificates and auth; {len(mesh.replicas)} replicas; a CA of our own")
        _, said = await mesh.meshadm("apply", "-f", str(SHOP))
        self._say("shop/orders" in said, f"applied {SHOP.name}/: {said.count('created')} objects, one revision")
        async with trio.open_nursery() as nursery:
            for instance in (self.web, self.orders, self.payments, self.inventory, self.reports):
                nursery.start_soon(mesh.start_sidecar, instance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mesh.start_app, self.web, "web", WEB_PORT)
            nursery.start_soon(self._start_orders, self.orders)
            nursery.start_soon(mesh.start_app, self.payments, "payments", PAYMENTS_PORT)
            nursery.start_soon(mesh.start_app, self.inventory, "inventory", INVENTORY_PORT)

    async def _start_orders(self, instance: Instance) -> None:
        await self.mesh.start_app(instance, "orders", ORDERS_PORT, "--payments", f"{instance.local}:9101")

    async def run(self) -> None:
        for step in (
            self.everyone_acks,
            self.request_through_all,
            self.plaintext_refused,
            self.unauthorized_denied,
            self.credentials_are_narrow,
            self.endpoint_comes_and_goes,
            self.replicas_die,
            self.etcd_dies,
        ):
            await step()

    # -- the steps

    async def everyone_acks(self) -> None:
        code, said = await self.mesh.meshadm("apply", "-f", str(SHOP), "--wait", "--timeout", "30s", check=False)
        self._say(code == 0, "every sidecar's Envoy has acked that revision" + ("" if code == 0 else f": {said}"))

    async def request_through_all(self) -> None:
        answer: httpx.Response | None = None

        async def bought() -> bool:
            nonlocal answer
            async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
                answer = await client.post(self.shop_front)
            return answer.status_code == 201

        held = await eventually(bought)
        text = answer.text.strip() if answer is not None else ""
        self._say(held, "one request through web ▸ orders ▸ payments (gRPC) and inventory (TCP)" + why(held, text))
        if answer is None or not held:
            return
        order = answer.json()["order"]
        for app, header, caller in (
            ("orders", order["peer"], self.web),
            ("payments", order["payment"]["peer"], self.orders),
        ):
            expected = spiffe_id(caller)
            seen = re.findall(r"URI=([^;,]+)", header)
            self._say(seen == [expected], f"{app} sees its caller as {', '.join(seen) or 'nobody'}")

    async def plaintext_refused(self) -> None:
        for instance, port in ((self.orders, ORDERS_PORT), (self.inventory, INVENTORY_PORT)):
            answer = await plaintext(instance.advertised, port)
            self._say(answer == b"", f"plaintext to {instance.name}'s inbound port refused" + why(not answer, answer))

    async def unauthorized_denied(self) -> None:
        async with httpx.AsyncClient(proxy=self.reports.proxy, trust_env=False, timeout=10) as client:
            answer = await client.post("http://orders.shop:8080/orders", json={"item": "tea"})
        self._say(answer.status_code == 403, f"reports.back-office may not order: {answer.status_code}")
        async with httpx.AsyncClient(proxy=self.web.proxy, trust_env=False, timeout=10) as client:
            answer = await client.delete("http://orders.shop:8080/orders/1")
        self._say(answer.status_code == 403, f"web may order, but not DELETE: {answer.status_code}")
        status, _, said = (await tunnel(self.reports, "inventory.shop:7000", b"TAKE tea\n")).partition(b"\r\n")
        refused = b" 403 " in status and b"LEFT" not in said
        self._say(refused, "reports.back-office may not take stock: its tunnel to the TCP service is answered 403")

    async def credentials_are_narrow(self) -> None:
        """A sidecar's own etcd certificate, taken from its disk as a thief would."""
        allowed, refused = await what_a_sidecar_may(self.mesh.state_dir(self.web))
        self._say(allowed, "a sidecar's etcd user reads data/")
        self._say(refused, "... and may neither read control/ nor write anything")

    async def endpoint_comes_and_goes(self) -> None:
        mesh = self.mesh
        async with load(self.shop_front) as traffic:
            await traffic.more(20)
            await self._start_orders(self.orders_2)
            await mesh.start_sidecar(self.orders_2)
            served = await traffic.wait_for(lambda: traffic.seen["orders-2"] >= 10, SETTLE_S)
            self._say(served, f"a second instance of orders added under load: it served {traffic.seen['orders-2']}")
            code = await mesh.processes.stop("sidecar-orders-2")
            await mesh.processes.stop("orders-2")
            await traffic.more(50)
            self._say(code == 0, f"... and removed again: its sidecar drained and ended with {code}")
        self._no_request_failed(traffic, "while an endpoint came and went")

    async def replicas_die(self) -> None:
        mesh = self.mesh
        async with load(self.shop_front) as traffic:
            await traffic.more(10)
            await mesh.processes.kill("replica-a")
            code, said = await mesh.meshadm("apply", "-f", str(SHOP / "traffic.yaml"), "--wait", check=False)
            self._say(code == 0, "replica a killed: the other answers" + why(code == 0, said))
            await mesh.processes.kill("replica-b")
            more = await traffic.more(50)
            self._say(more, "replica b killed too: requests go on")
        self._no_request_failed(traffic, "without any replica")
        for replica in mesh.replicas:
            await mesh.start_replica(replica)

    async def etcd_dies(self) -> None:
        mesh = self.mesh
        async with load(self.shop_front) as traffic:
            await traffic.more(10)
            await mesh.processes.kill("etcd")
            self._say(await traffic.more(50), "etcd killed: requests go on")
        self._no_request_failed(traffic, "without etcd")
        for replica in mesh.replicas:
            await mesh.processes.kill(f"replica-{replica}")
        await mesh.processes.stop("sidecar-web-1")
        await mesh.restart_sidecar(self.web)
        held = await eventually(self._can_buy)
        status = await mesh.sidecar_status(self.web)
        detail = f"revision {status.get('ackedRevision')}, stale since {status.get('staleSince')}"
        self._say(held, f"web's sidecar restarted with nobody to ask: it serves the last known good ({detail})")
        await mesh.start_etcd()
        for replica in mesh.replicas:
            await mesh.start_replica(replica)
        denial = mesh.directory / "denial.yaml"
        denial.write_text(DENIAL)
        code, said = await mesh.meshadm("apply", "-f", str(denial), "--wait", "--timeout", "60s", check=False)
        self._say(code == 0, "etcd back: a new change reaches every sidecar" + why(code == 0, said))
        denied = not await self._can_buy()
        self._say(denied, "... and is in force: web may not order any more")
        await mesh.meshadm("delete", "-f", str(denial), "--wait", "--timeout", "60s")
        self._say(await self._can_buy(), "... until it is deleted")

    async def _can_buy(self) -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return (await client.post(self.shop_front)).status_code == 201

    def _no_request_failed(self, traffic: Load, when: str) -> None:
        kinds = "; ".join(f"{count} x {what}" for what, count in traffic.failures.most_common(3))
        self._say(
            traffic.failed == 0 and traffic.answered > 0,
            f"{traffic.answered} requests {when}, {traffic.failed} failed" + (f": {kinds}" if kinds else ""),
        )

    def what_to_try(self) -> list[str]:
        sockets = " ".join(f"unix:{self.mesh.socket(one)}" for one in self.mesh.replicas)
        meshadm = ".venv/bin/meshadm"
        return [
            f"export MESHADM_ENDPOINT='{sockets}'",
            f"{meshadm} status",
            f"{meshadm} get svc -A",
            f"{meshadm} watch",
            f"curl -X POST '{self.shop_front}'",
            f"curl -x {self.reports.proxy} http://orders.shop:8080/health     # denied",
            f"ls {self.mesh.processes.log('web-1').parent}     # everybody's log",
        ]


DENIAL = json.dumps(
    {
        "apiVersion": "mesh/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "closed-for-stocktaking", "namespace": "shop"},
        "spec": {"targetRefs": [{"name": "orders"}], "action": "DENY", "rules": [{}]},
    }
)


def spiffe_id(instance: Instance) -> str:
    name, _, namespace = instance.service.partition(".")
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/svc/{name}"


def why(held: bool, said: object) -> str:
    return "" if held else f": {said!r}"


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = SETTLE_S) -> bool:
    with trio.move_on_after(seconds):
        while True:
            try:
                if await condition():
                    return True
            except (httpx.HTTPError, OSError, ProcessFailed):
                pass
            await trio.sleep(POLL_S)
    return False


async def plaintext(address: str, port: int) -> bytes:
    """What comes back for an HTTP request without TLS; nothing, if the port is what it should be."""
    with trio.move_on_after(5):
        async with await trio.open_tcp_stream(address, port) as stream:
            try:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                return bytes(await stream.receive_some())
            except trio.BrokenResourceError:
                return b""
    return b"no answer within 5 s"


async def tunnel(caller: Instance, target: str, data: bytes) -> bytes:
    """What comes back through the caller's proxy port: the refusal of the CONNECT, or the answer to `data`."""
    with trio.move_on_after(5):
        async with await trio.open_tcp_stream(caller.local, 15001) as stream:
            await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            head = bytes(await stream.receive_some())
            if b" 200 " not in head.partition(b"\r\n")[0]:
                return head
            try:
                await stream.send_all(data)
                return bytes(await stream.receive_some())
            except trio.BrokenResourceError:
                return b""
    return b"no answer within 5 s"

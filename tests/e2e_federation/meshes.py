"""Two whole meshes of different trust domains, each with etcd, a replica, two sidecars with Envoy and their apps.

    shop.example                                   partner.example
    web.shop ◀───────────────────────────────────▶ api.shop
    reports.back-office                            reports.back-office

At rest each follows the other's bundle endpoint; web may call api and api may call web, and the two reports, which try
as well, may call nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from deploy.demo.local_mesh import LocalMesh
from deploy.demo.processes import Processes
from schemas.api import mesh_pb2 as pb
from schemas.objects import AnyObject, federation
from schemas.objects.federation import BundleEndpoint
from tests.e2e.app import HTTP, TCP
from tests.e2e.mesh import APPLY_SECONDS, E2eMesh, caller
from tests.states.build import external, federates, policy, port, rule, service
from tests.support.net import eventually

SHOP, PARTNER = "shop.example", "partner.example"
WEB_ID, API_ID = f"spiffe://{SHOP}/ns/shop/svc/web", f"spiffe://{PARTNER}/ns/shop/svc/api"
PORTS = (port("http", HTTP), port("tcp", TCP, "tcp"))
REPORTS = service("reports.back-office", port("http", HTTP), needs=None)


def made(directory: Path, trust_domain: str, *at_rest: AnyObject) -> E2eMesh:
    local = LocalMesh(
        directory, Processes(directory / "log"), replicas=("a",), trust_domain=trust_domain, serves_bundle=True
    )
    return E2eMesh(local, at_rest=(REPORTS, *at_rest))


@dataclass
class Meshes:
    shop: E2eMesh
    partner: E2eMesh

    @classmethod
    def in_directory(cls, directory: Path) -> Meshes:
        web_may = policy("web-may", "ALLOW", rule(caller(WEB_ID)), on=["api"])
        api_may = policy("api-may", "ALLOW", rule(caller(API_ID)), on=["web"])
        shop = made(directory / "shop", SHOP, service("web", *PORTS, needs=None), api_may)
        return cls(shop, made(directory / "partner", PARTNER, service("api", *PORTS, needs=None), web_may))

    async def start(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.shop.start, "web-1", "reports-1")
            nursery.start_soon(self.partner.start, "api-1", "reports-1")
        await self.shop.apply(await self.trust_of(self.partner), *self.externals(self.partner, "api", API_ID))
        await self.partner.apply(await self.trust_of(self.shop), *self.externals(self.shop, "web", WEB_ID))
        await self.fetch(self.shop, PARTNER)
        await self.fetch(self.partner, SHOP)
        await eventually("web and api call each other", self.both_answer, APPLY_SECONDS)

    async def both_answer(self) -> bool:
        return [
            await self.shop.status(by="web-1", host="api.other"),
            await self.partner.status(by="api-1", host="web.other"),
        ] == [200, 200]

    async def stop(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.shop.stop)
            nursery.start_soon(self.partner.stop)

    async def fetch(self, mesh: E2eMesh, trust_domain: str) -> None:
        """Once more, and successfully."""
        request = pb.FetchBundleRequest(trust_domain=trust_domain)
        async with mesh.client() as client:
            found = await client.call("/mesh.v1.Federation/Fetch", request, pb.FederatedDomain)
        assert found.fetched, found
        assert not found.problem, found

    async def trust_of(self, mesh: E2eMesh) -> federation.TrustBundle:
        """As its operators would hand it over."""
        async with mesh.client() as client:
            shown = await client.call("/mesh.v1.Federation/Bundle", pb.BundleRequest(), pb.BundleReply)
        endpoint = BundleEndpoint(
            url=f"https://{mesh.local.bundle_endpoint('a')}/",
            profile="https_spiffe",
            endpoint_spiffe_id=f"spiffe://{mesh.local.trust_domain}/control-plane",
        )
        return federates("other", mesh.local.trust_domain, endpoint, shown.jwks.decode())

    @staticmethod
    def externals(mesh: E2eMesh, name: str, identity: str) -> tuple[AnyObject, ...]:
        """Where its service is; and one that is said to be it, and is another workload of that mesh."""
        return (
            external(f"{name}.other", identity, *PORTS, at=[mesh.instances[f"{name}-1"].advertised]),
            external("impostor.other", identity, PORTS[0], at=[mesh.instances["reports-1"].advertised]),
        )

"""Orders, an ASGI application: charges by gRPC on a bound port, takes stock by TCP through the proxy's CONNECT."""

import argparse
import asyncio
import itertools
import os
from typing import Any
from urllib.parse import urlsplit

import grpc
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from deploy.demo.apps import shop_pb2

INVENTORY = "inventory.shop:7000"

app = FastAPI()
numbers = itertools.count(1)


class NewOrder(BaseModel):
    item: str


@app.get("/health")
async def health() -> dict[str, str]:
    return {"service": "orders"}


@app.post("/orders", status_code=201)
async def create(order: NewOrder, request: Request) -> dict[str, Any]:
    number = f"{os.environ.get('INSTANCE', 'orders')}-{next(numbers)}"
    left = await take_stock(order.item)
    paid = await charge(number)
    return {
        "order": number,
        "service": "orders",
        "instance": os.environ.get("INSTANCE", ""),
        "peer": request.headers.get("x-forwarded-client-cert", ""),
        "payment": {"receipt": paid.receipt, "peer": paid.peer},
        "stock": left,
    }


async def charge(order: str) -> shop_pb2.ChargeReply:
    call = app.state.payments.unary_unary(
        "/shop.Payments/Charge",
        request_serializer=shop_pb2.ChargeRequest.SerializeToString,
        response_deserializer=shop_pb2.ChargeReply.FromString,
    )
    try:
        reply: shop_pb2.ChargeReply = await call(shop_pb2.ChargeRequest(order=order, cents=420), timeout=5)
    except grpc.aio.AioRpcError as error:
        raise HTTPException(502, f"payments: {error.code().name}: {error.details()}") from error
    return reply


async def take_stock(item: str) -> int:
    proxy = urlsplit(os.environ["http_proxy"])
    reader, writer = await asyncio.open_connection(proxy.hostname, proxy.port)
    try:
        writer.write(f"CONNECT {INVENTORY} HTTP/1.1\r\nHost: {INVENTORY}\r\n\r\n".encode())
        status = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0].decode()
        if " 200 " not in status:
            raise HTTPException(502, f"inventory: {status}")
        writer.write(f"TAKE {item}\n".encode())
        answer = await reader.readline()
        if not answer.startswith(b"LEFT "):
            raise HTTPException(502, f"inventory: {answer.decode().strip() or 'connection closed'}")
        return int(answer.split()[1])
    finally:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--payments", required=True, help="host:port of the bound port that leads to payments")
    arguments = parser.parse_args()

    async def serve() -> None:
        async with grpc.aio.insecure_channel(arguments.payments) as channel:
            app.state.payments = channel
            await uvicorn.Server(
                uvicorn.Config(app, host=arguments.host, port=arguments.port, log_level="warning")
            ).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main()

"""Payments, a gRPC service. It sees who called in the metadata that its sidecar sets."""

import argparse
import asyncio
import itertools

import grpc

from deploy.demo.apps import shop_pb2

numbers = itertools.count(1)


async def charge(
    request: shop_pb2.ChargeRequest, context: "grpc.aio.ServicerContext[shop_pb2.ChargeRequest, shop_pb2.ChargeReply]"
) -> shop_pb2.ChargeReply:
    metadata = dict(context.invocation_metadata() or ())
    return shop_pb2.ChargeReply(
        receipt=f"receipt-{next(numbers)} for {request.order}", peer=str(metadata.get("x-forwarded-client-cert", ""))
    )


async def serve(address: str) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        charge,
        request_deserializer=shop_pb2.ChargeRequest.FromString,
        response_serializer=shop_pb2.ChargeReply.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Payments", {"Charge": handler}),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(f"{arguments.host}:{arguments.port}"))


if __name__ == "__main__":
    main()

"""Inventory, a plain TCP service: one line ``TAKE <item>`` in, one line ``LEFT <count>`` out."""

import argparse
import collections
import functools

import trio

FULL = 1_000_000
MAX_LINE_BYTES = 256

stock: dict[str, int] = collections.defaultdict(lambda: FULL)


async def serve_client(stream: trio.SocketStream) -> None:
    async with stream:
        buffer = b""
        async for chunk in stream:
            buffer += chunk
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                await stream.send_all(answer(line.decode(errors="replace")))
            if len(buffer) > MAX_LINE_BYTES:
                return


def answer(line: str) -> bytes:
    match line.split():
        case ["TAKE", item]:
            stock[item] -= 1
            return f"LEFT {stock[item]}\n".encode()
    return b"ERROR say TAKE <item>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    trio.run(functools.partial(trio.serve_tcp, serve_client, arguments.port, host=arguments.host))


if __name__ == "__main__":
    main()

"""Which async HTTP client for the hop from gateway to TorchServe: aiohttp against httpx, in one run.

    python benchmarks/http_clients.py

A trivial server in a process of its own takes 12.5 KB and answers 3 KB, about what stage pgn takes and gives for a
64 px backbone. Both clients keep their connections. Prints requests a second and the ratio.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx

BODY = bytes(12_500)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + bytes(3000)
SECONDS = 3.0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of a connection with the same bytes."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(len(BODY))
            writer.write(ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(port: multiprocessing.Queue[int]) -> None:
    """The server's process; says its port."""

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def rate(ask: Callable[[], Awaitable[bytes]], connections: int) -> float:
    """Requests a second of `connections` callers that ask one after the other."""
    done = 0
    end = time.perf_counter() + SECONDS

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            assert len(await ask()) == 3000
            done += 1

    await asyncio.gather(*(caller() for _ in range(connections)))
    return done / SECONDS


async def compare(url: str) -> None:
    """Measure both, each twice and in turn, so that a noisy neighbour hits both."""
    async with aiohttp.ClientSession() as fast, httpx.AsyncClient(timeout=30) as comfortable:

        async def with_aiohttp() -> bytes:
            async with fast.post(url, data=BODY) as response:
                return await response.read()

        async def with_httpx() -> bytes:
            return (await comfortable.post(url, content=BODY)).content

        for connections in (1, 16):
            for _ in range(2):
                one, other = await rate(with_aiohttp, connections), await rate(with_httpx, connections)
                print(
                    f"{connections:>2} connections: aiohttp {one:,.0f}/s, httpx {other:,.0f}/s, ratio {one / other:.1f}"
                )


if __name__ == "__main__":
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    asyncio.run(compare(f"http://127.0.0.1:{port.get()}/"))

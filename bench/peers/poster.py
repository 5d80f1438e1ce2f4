"""The floor of callbacks: one request, posted again and again by an aiohttp client with nothing around it.

Usage: poster.py URL FILE COUNT CONNECTIONS. FILE is what the sink gives as /sample. Says
`posted`, then its own CPU in us a POST.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

LEFT_OUT = ("host", "content-length", "connection", "accept", "user-agent", "accept-encoding")
"""What the client sets itself."""


async def main(url: str, seen: Any, count: int, connections: int) -> None:
    headers = {name: value for name, value in seen["headers"].items() if name not in LEFT_OUT}
    body, turns = seen["body"].encode(), iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        began = time.process_time()
        await asyncio.gather(*(_post(session, url, headers, body, turns) for _ in range(connections)))
        print("posted", 1e6 * (time.process_time() - began) / count, flush=True)


async def _post(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes, turns: Iterator[int]
) -> None:
    for _ in turns:
        async with session.post(url, data=body, headers=headers) as response:
            await response.read()


asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3]), int(sys.argv[4])))

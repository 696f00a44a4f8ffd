"""What a new version moves over the wire that changes only the card of a 20 MB adapter: by LFS, and by Xet.

Every byte between client and server, both ways, is counted by a proxy: requests, headers and all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants

from adapthub.adapters.admission import CARD
from benchmarks.hub import servers
from benchmarks.hub.adapters import MEGABYTE, write_adapter

SIZE = 20 * MEGABYTE
_PIECE = 2**16


def measure(folder: Path, _rounds: int) -> list[dict[str, Any]]:
    return [_measure(folder / way, way) for way in ("lfs", "xet")]


def _measure(folder: Path, way: str) -> dict[str, Any]:
    adapter = write_adapter(folder / "adapter", 0, SIZE)
    token = servers.new_token(folder / "hub")
    constants.HF_HUB_DISABLE_XET = way == "lfs"
    moved = []
    with servers.hub(folder / "hub") as server, metered(server.url) as meter:
        api = HfApi(endpoint=meter.url, token=token)
        api.create_repo("bench/changed")
        for card in ("the first", "the second"):
            (adapter.path / CARD).write_text(f"---\nlibrary_name: peft\n---\n# This is {card} card\n")
            before = meter.moved
            api.upload_folder(repo_id="bench/changed", folder_path=adapter.path)
            moved.append(meter.moved - before)
    return {
        "by": way,
        "adapter bytes": adapter.size,
        "first version bytes": moved[0],
        "only the card bytes": moved[1],
    }


@dataclass
class Meter:
    """Where the proxy is, and the bytes that it passed on, both ways."""

    url: str
    moved: int = 0


@contextmanager
def metered(url: str) -> Iterator[Meter]:
    """Within: a proxy to the server at `url` runs."""
    target = urlsplit(url)
    loop = asyncio.new_event_loop()
    meter = Meter("")

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                meter.moved += len(piece)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(target.hostname, target.port)
        with suppress(asyncio.CancelledError):  # which asyncio would print
            await asyncio.gather(pipe(reader, back), pipe(there, writer))

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    meter.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield meter
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    """Close the proxy, with the connections that clients keep open."""
    server.close()
    open_ones = asyncio.all_tasks() - {asyncio.current_task()}
    for task in open_ones:
        task.cancel()
    await asyncio.gather(*open_ones, return_exceptions=True)

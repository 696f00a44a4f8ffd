"""A process that records usage until it is killed: `python recording.py DATABASE`.

Prints the id and the tokens of each record, a line each, once the ledger said that it is on the disk, and not before.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.runtime.tenants.helpers import ledger_at, used


async def main(path: Path) -> None:
    with ledger_at(path) as ledger:

        async def client(number: int) -> None:
            for turn in range(10**6):
                usage = used(
                    f"tenant-{number % 3}",
                    prompt=number,
                    completion=turn,
                    id=f"{os.getpid()}-{number}-{turn}",
                )
                await asyncio.wrap_future(ledger.record(usage))
                os.write(1, f"{usage.id} {usage.tokens}\n".encode())

        await asyncio.gather(*map(client, range(40)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

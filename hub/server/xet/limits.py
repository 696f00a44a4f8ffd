"""What one upload, and all of them together, may take of this machine."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 1 << 20
GiB = 1 << 30


@dataclass(frozen=True, slots=True)
class XetLimits:
    """Bounds of the facade. Bytes and seconds.

    `xorb_unpacked_bytes` and `xorb_chunks` are above what clients cut at: 64 MiB and 8192 chunks. `shard_unpacked_bytes` is
    all files of one shard together, and `shard_chunks` their chunks, each of which costs work however small it is: clients
    cut at 8 KiB and more. `kept_bytes` is what the hub keeps, `share_bytes` what one token may add to it.
    `generation_seconds` is how long new uploads may refer to what earlier ones sent; `idle_seconds`, which is to be longer
    than `token_seconds`, is how long an upload may send nothing before what it sent is removed. `workers` is how many xorbs
    are sealed, and of how many shards files are stored, at once; others wait.
    """

    xorb_bytes: int = 66 * MiB
    xorb_unpacked_bytes: int = 64 * MiB
    xorb_chunks: int = 16_384
    shard_bytes: int = 64 * MiB
    shard_files: int = 50_000
    shard_unpacked_bytes: int = 64 * GiB
    shard_chunks: int = 64 * GiB // (8 * 1024)
    body_seconds: float = 15 * 60
    kept_bytes: int = 64 * GiB
    share_bytes: int = 16 * GiB
    generation_seconds: float = 24 * 3600
    idle_seconds: float = 2 * 3600
    token_seconds: int = 3600
    workers: int = 4

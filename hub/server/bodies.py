"""Bodies of requests, read within bounds. Does not parse them."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_body(request: Request, most: int) -> bytes:
    """The whole body. Raises HTTPException 413 where it has more than `most` bytes, before more than that was read."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large(most)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise too_large(most)
        pieces.append(piece)
    return b"".join(pieces)


def too_large(most: int) -> HTTPException:
    """The error for a body of more than `most` bytes."""
    return HTTPException(413, f"the body is larger than {most:,} bytes")

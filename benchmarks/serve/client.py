"""The clients: a process that sends a plan to one server by OpenAI's completions, streaming, and says what came when.

    python -m benchmarks.serve.client < job.json > outcomes.json

The job: {"url", "keys": tenant to key, "extra": more fields of every body, "asks": see plan}. An outcome has, in seconds
from the beginning, when it was due, when its first text came and every later one; its tokens and its error. Does not judge.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import httpx2 as httpx

_PATIENCE = 600.0  # seconds


async def _send(
    client: httpx.AsyncClient, job: dict[str, Any], ask: dict[str, Any], start: float
) -> dict[str, Any]:
    await asyncio.sleep(max(0.0, start + ask["at"] - time.perf_counter()))
    outcome: dict[str, Any] = {
        "tenant": ask["tenant"],
        "model": ask["model"],
        "due": ask["at"],
        "times": [],
        "tokens": 0,
        "error": None,
    }
    body = {
        "model": ask["model"],
        "prompt": ask["prompt"],
        "max_tokens": ask["max_tokens"],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **job["extra"],
    }
    headers = {"Authorization": f"Bearer {job['keys'].get(ask['tenant'], 'none')}"}
    try:
        async with client.stream(
            "POST", f"{job['url']}/v1/completions", json=body, headers=headers
        ) as response:
            if response.status_code != 200:
                outcome["error"] = f"{response.status_code}: {(await response.aread()).decode()[:200]}"
                return outcome
            async for line in response.aiter_lines():
                _read(line, outcome, time.perf_counter() - start)
    except httpx.HTTPError as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    outcome["ended"] = time.perf_counter() - start
    return outcome


def _read(line: str, outcome: dict[str, Any], now: float) -> None:
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        outcome["error"] = str(event["error"])
        return
    if event.get("usage"):
        outcome["tokens"] = event["usage"]["completion_tokens"]
    if any(choice.get("text") for choice in event.get("choices", ())):
        outcome["times"].append(now)


async def _run(job: dict[str, Any]) -> list[dict[str, Any]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=_PATIENCE, limits=limits, trust_env=False) as client:
        start = time.perf_counter() + 0.2
        return list(await asyncio.gather(*[_send(client, job, ask, start) for ask in job["asks"]]))


if __name__ == "__main__":
    json.dump(asyncio.run(_run(json.load(sys.stdin))), sys.stdout)

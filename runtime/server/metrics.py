"""The server's numbers for Prometheus: what requests took, counted as they end, and the engine's state, read when asked.

`GET /metrics` answers administrators: everybody on a server without tenants, which only this machine reaches. Adapters and
tenants are told apart up to a bound (groups). Knows no texts, and keeps no history.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.dependencies import TheAdmin
from adapthub.runtime.server.groups import Groups
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.server.serving import Serving

router = APIRouter(tags=["metrics"])

_GROUP = ("tenant", "adapter")
# Seconds: a request from a small model on a GPU to a long answer of a large one on a CPU.
# Few, since each is a line for every tenant and adapter.
_TO_FIRST = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)
_BETWEEN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_IN_QUEUE = (0.005, 0.05, 0.5, 2.0, 10.0, 60.0)
_WHOLE = (0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
# What is no endpoint of ours has no name of its own: clients could make any number up.
_NO_ROUTE = "none"


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, serving: Serving, groups: Groups) -> None:
        self._groups = groups
        groups.forgotten.append(self._forget)
        self._ends: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(
            set
        )  # kinds and outcomes
        self.registry = CollectorRegistry()
        registry = self.registry

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"adapthub_{name}_seconds", what, _GROUP, buckets=buckets, registry=registry)

        def counter(name: str, what: str, labels: tuple[str, ...] = _GROUP) -> Counter:
            return Counter(f"adapthub_{name}", what, labels, registry=registry)

        self._to_first = histogram("time_to_first_token", "From admission to the first token.", _TO_FIRST)
        self._between = histogram("inter_token", "From one token of an answer to the next.", _BETWEEN)
        self._in_queue = histogram("queue", "That a request waited before it first ran.", _IN_QUEUE)
        self._whole = histogram("request", "From admission to the end.", _WHOLE)
        self._requests = counter(
            "requests", "Requests that ended, by what they asked for and how.", (*_GROUP, "kind", "outcome")
        )
        self._prompt = counter("prompt_tokens", "Tokens of prompts, once the request ended.")
        self._cached = counter("cached_prompt_tokens", "Of them, those that the prefix cache had.")
        self._generated = counter("completion_tokens", "Generated tokens, as they come.")
        self._by_group = (
            *(self._to_first, self._between, self._in_queue, self._whole),
            *(self._prompt, self._cached, self._generated),
        )
        self._responses = counter("http_responses", "Responses, refusals included.", ("route", "status"))
        registry.register(_State(serving))

    def count(self, tenant: str, target: Target, tokens: int) -> None:
        """Tokens were generated."""
        self._generated.labels(*self._groups.of(tenant, target)).inc(tokens)

    def observe(self, seen: Observation) -> None:
        """A request ended."""
        group = self._groups.of(seen.tenant, seen.target)
        self._requests.labels(*group, seen.kind, seen.outcome).inc()
        self._ends[group].add((seen.kind, seen.outcome))
        self._prompt.labels(*group).inc(seen.usage.prompt_tokens)
        self._cached.labels(*group).inc(seen.usage.cached_tokens)
        self._whole.labels(*group).observe(seen.seconds)
        if seen.started is not None:
            self._in_queue.labels(*group).observe(max(0.0, seen.started - seen.queued))
        if seen.ttft is not None:
            self._to_first.labels(*group).observe(seen.ttft)
        between = self._between.labels(*group)
        for gap in seen.gaps:
            between.observe(gap)

    def _forget(self, group: tuple[str, str]) -> None:
        for end in self._ends.pop(group, ()):
            self._requests.remove(*group, *end)
        for metric in self._by_group:
            metric.remove(*group)

    def respond(self, route: str, status: int) -> None:
        """A response began."""
        self._responses.labels(route, status).inc()


class CountedResponses:
    """Middleware: every response is counted by the path of its endpoint and its status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", _NO_ROUTE)
                self._metrics.respond(route, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, _: TheAdmin) -> Response:
    """The server's numbers, in Prometheus' text format."""
    found: Metrics = request.app.state.metrics
    # On a thread: many tenants and adapters are many lines.
    text = await asyncio.to_thread(generate_latest, found.registry)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_1_0_0)


class _State(Collector):
    """What the engine and the adapters' memory are like at the moment, and what they counted themselves."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def describe(self) -> list[Metric]:
        """Nothing: asking for names alone shall not read the state."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        yield _gauge("requests_in_flight", "Requests that are being answered.", self._serving.in_flight)
        yield from self._engine()
        yield from self._adapters()

    def _engine(self) -> Iterator[Metric]:
        load = self._serving.runtime.load
        if load is None:
            return
        limits = self._serving.runtime.generation.limits
        yield _gauge("engine_running", "Requests that the engine computes.", load.running)
        yield _gauge("engine_rows", "Requests that it computes at most.", limits.max_rows)
        yield _gauge("engine_waiting", "Requests that wait in its queue.", load.waiting)
        yield _gauge("engine_tokens", "Tokens whose keys and values running requests hold.", load.tokens)
        yield _gauge("kv_pages", "Pages for keys and values.", load.pages)
        yield _gauge("kv_pages_free", "Of them, those that nothing is in.", load.free_pages)
        yield _counter("engine_steps", "Passes of the base.", load.steps)
        yield _counter("preemptions", "Requests that had to make room and began again.", load.preemptions)

    def _adapters(self) -> Iterator[Metric]:
        runtime = self._serving.runtime
        states, sizes = Tally[str](), Tally[str]()
        for resident in runtime.resident:
            states[resident.state] += 1
            sizes[resident.state] += resident.bytes
        counts = GaugeMetricFamily(
            "adapthub_adapters", "Registered adapters by where they are.", labels=["state"]
        )
        taken = GaugeMetricFamily("adapthub_adapter_bytes", "What they take there.", labels=["state"])
        for state in ("slot", "host", "disk"):
            counts.add_metric([state], states[state])
            taken.add_metric([state], sizes[state])
        yield counts
        yield taken
        moves = runtime.moves
        yield _counter("adapter_loads", "Adapters put into a slot.", moves.loads)
        yield _counter("adapter_swaps", "Adapters taken out of their slot for another.", moves.swaps)
        yield _counter("adapter_load_failures", "Reads and loads that failed.", moves.failures)
        yield _counter("adapter_load_seconds", "Spent reading, attaching and detaching.", moves.seconds)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"adapthub_{name}", what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(f"adapthub_{name}", what, value=value)

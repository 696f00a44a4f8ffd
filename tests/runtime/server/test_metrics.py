"""Numbers at /metrics against what clients were told: tokens, times, outcomes, where adapters are."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.request import Request, urlopen

import openai
import pytest

from adapthub.hub.registry import Registry
from adapthub.runtime.requests import Usage
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.groups import Groups
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.metrics import Metrics
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.tenants.tenant import OTHER
from tests.runtime.server.keyed import KeyedGate
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.scraping import get, scrape

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana" / "adapthub.json"
MESSAGES: list[Any] = [{"role": "user", "content": "alice visited london in paris and was good"}]


@pytest.fixture(scope="module")
def gate() -> KeyedGate:
    return KeyedGate()


@pytest.fixture(scope="module")
def counted(served_base: Path, served_hub: Registry, gate: KeyedGate) -> Iterator[Running]:
    """With tenants, and one slot for all adapters."""
    with live(settings_for(served_base, slots=1), served_hub, gate) as running:
        yield running


def client_of(running: Running, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.address}/v1", api_key=key, max_retries=0)


def test_a_request_counts_as_its_client_was_told(counted: Running) -> None:
    labels = {"tenant": "acme", "adapter": "acme/sql@v1"}
    with client_of(counted, "acme-key") as client:
        usages: list[Any] = []
        for _ in range(2):
            answer = client.chat.completions.create(
                model="acme/sql@prod", messages=MESSAGES, max_tokens=5, temperature=0
            )
            usages.append(answer.usage)
    seen = scrape(counted, "root-key")
    assert seen("requests_total", kind="chat", outcome=_reason(answer), **labels) == 2
    assert seen("prompt_tokens_total", **labels) == sum(usage.prompt_tokens for usage in usages)
    assert seen("completion_tokens_total", **labels) == sum(usage.completion_tokens for usage in usages)
    cached = sum(usage.prompt_tokens_details.cached_tokens for usage in usages)
    assert cached > 0
    assert seen("cached_prompt_tokens_total", **labels) == cached
    assert seen("time_to_first_token_seconds_count", **labels) == 2
    assert seen("queue_seconds_count", **labels) == 2
    assert seen("inter_token_seconds_count", **labels) == sum(u.completion_tokens - 1 for u in usages)
    between, to_first = (
        seen("inter_token_seconds_sum", **labels),
        seen("time_to_first_token_seconds_sum", **labels),
    )
    assert 0 < seen("queue_seconds_sum", **labels) <= to_first
    assert between + to_first <= seen("request_seconds_sum", **labels)


def _reason(answer: openai.types.chat.ChatCompletion) -> str:
    return answer.choices[0].finish_reason


def test_a_sum_of_adapters_and_the_base_have_labels_without_end_of_their_own(counted: Running) -> None:
    with client_of(counted, "root-key") as client:
        for model in ("0.25*acme/sql", "0.125*acme/tone", counted.serving.catalog.base_name):
            client.completions.create(model=model, prompt="alice visited", max_tokens=3)
    seen = scrape(counted, "root-key")
    assert seen("requests_total", tenant="root", adapter="expression") == 2
    assert seen("requests_total", tenant="root", adapter="base") == 1


def test_a_client_that_leaves_is_counted_to_the_token(counted: Running, gate: KeyedGate) -> None:
    with client_of(counted, "zeta-key") as client:
        stream = client.completions.create(
            model="zeta/own", prompt="a b", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    while not (left := [record for record in gate.records if record.tenant == "zeta"]):
        pass
    while not (seen := scrape(counted, "root-key"))("requests_total", tenant="zeta"):
        pass
    assert [record.outcome for record in left] == ["cancelled"]
    assert seen("requests_total", tenant="zeta", outcome="cancelled") == 1
    assert seen("completion_tokens_total", tenant="zeta") == left[0].completion_tokens


def test_what_is_refused_is_counted_by_its_endpoint(counted: Running) -> None:
    before = scrape(counted, "root-key")
    with client_of(counted, "acme-key") as client:
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="zeta/own", prompt="a", max_tokens=1)
        assert get(counted, "/any/path/there/is")[0] == 404
    seen = scrape(counted, "root-key")

    def new(route: str) -> float:
        name, labels = "http_responses_total", {"route": route, "status": "404"}
        return seen(name, **labels) - before(name, **labels)

    assert new("/v1/completions") == 1
    assert new("none") == 1
    assert seen("http_responses_total", route="/any/path/there/is") == 0


def test_adapters_are_counted_where_they_are(counted: Running) -> None:
    before = scrape(counted, "root-key")
    with client_of(counted, "acme-key") as client:
        for model in ("acme/tone", "acme/sql@v2", "acme/tone"):
            client.completions.create(model=model, prompt="a b", max_tokens=2)
    seen = scrape(counted, "root-key")
    assert seen("adapters", state="slot") == 1
    assert seen("adapters", state="host") >= 1
    assert seen("adapter_bytes", state="slot") == sum(
        resident.bytes for resident in counted.serving.runtime.resident if resident.state == "slot"
    )
    assert seen("adapter_swaps_total") - before("adapter_swaps_total") >= 2
    assert seen("adapter_loads_total") - before("adapter_loads_total") >= 2
    assert seen("adapter_load_seconds_total") > before("adapter_load_seconds_total")
    assert seen("engine_rows") == 16
    assert seen("kv_pages") == 8192 / 4
    assert seen("kv_pages_free") < seen("kv_pages")
    assert seen("engine_steps_total") > 0


@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("nobodys", 401), ("acme-key", 403), ("root-key", 200)]
)
def test_with_tenants_only_administrators_read_metrics(
    counted: Running, key: str | None, status: int
) -> None:
    assert get(counted, "/metrics", key)[0] == status


def test_single_passes_are_counted_too(encoder: Running) -> None:
    labels = {"adapter": "acme/ner@v1", "kind": "token-classification", "outcome": "stop"}
    before = scrape(encoder)
    body = json.dumps({"inputs": "ada met bob"}).encode()
    request = Request(f"{encoder.address}/models/acme/ner", body, {"Content-Type": "application/json"})
    with urlopen(request) as response:
        assert response.status == 200
    seen = scrape(encoder)
    assert seen("requests_total", **labels) - before("requests_total", **labels) == 1
    assert seen("prompt_tokens_total", adapter="acme/ner@v1") > before(
        "prompt_tokens_total", adapter="acme/ner@v1"
    )
    assert seen("time_to_first_token_seconds_count", adapter="acme/ner@v1") == 0


def test_two_servers_of_a_process_count_apart(
    server: Running, client: openai.OpenAI, counted: Running
) -> None:
    before = scrape(counted, "root-key")("requests_total")
    client.completions.create(model="acme/tone", prompt="a b", max_tokens=2)
    assert scrape(server)("requests_total", tenant="", adapter="acme/tone@v1") >= 1
    assert scrape(counted, "root-key")("requests_total") == before


def test_the_dashboard_asks_for_metrics_and_labels_that_exist(server: Running, client: openai.OpenAI) -> None:
    client.completions.create(model="acme/sql", prompt="a b", max_tokens=2)
    names = scrape(server).names
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"]]
    asked = {name for query in queries for name in re.findall(r"adapthub_\w+", query)}
    assert len(asked) > 15
    assert asked <= names
    # What a server counts and nobody would see is as bad.
    unseen = {name for name in names if name.startswith("adapthub_")} - asked
    assert all(name.endswith(("_created", "_sum", "_count")) for name in unseen), unseen


def test_they_are_written_while_others_are_answered(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def generated(_: object) -> bytes:
        threads.append(threading.current_thread().name)
        return b""

    monkeypatch.setattr("adapthub.runtime.server.metrics.generate_latest", generated)
    assert get(server, "/metrics")[0] == 200
    assert threads[0].startswith("server-work")  # and not the event loop's


def test_groups_are_bounded() -> None:
    groups = Groups(tenants=2, pairs=10)
    target = {name: Target(name, name, name) for name in "abcd"}
    assert groups.of("x", target["a"]) == ("x", "a")
    assert groups.of("x", target["b"]) == ("x", "b")
    assert groups.of("x", target["c"]) == ("x", OTHER)  # a fifth is one tenant's
    assert groups.of("y", target["c"]) == ("y", "c")
    assert groups.of("x", target["a"]) == ("x", "a")
    assert groups.of("z", target["a"]) == (OTHER, OTHER)


def test_without_tenants_all_groups_are_everybodys() -> None:
    groups = Groups(pairs=3)
    seen = [groups.of("", Target(name, name, name)) for name in "abcda"]
    assert seen == [("", "a"), ("", "b"), ("", "c"), ("", OTHER), ("", "a")]


def test_what_nobody_uses_makes_room_and_is_shown_no_more() -> None:
    now = 0.0
    groups = Groups(tenants=1, pairs=5, clock=lambda: now)
    metrics = Metrics(cast(Any, None), groups)

    def use(tenant: str, adapter: str) -> None:
        target = Target(adapter, adapter, adapter)
        metrics.count(tenant, target, 1)
        usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
        metrics.observe(Observation("1", "chat", tenant, target, "stop", usage, 0.0, 0.1, 0.2, 1.0, [0.1]))

    def shown() -> set[tuple[str, str]]:
        """Of all metrics but the engine's."""
        return {
            (sample.labels["tenant"], sample.labels["adapter"])
            for metric in [*metrics._by_group, metrics._requests]
            for family in metric.collect()
            for sample in family.samples
        }

    use("x", "a")
    now = 1800.0
    use("x", "b")  # of one tenant's one
    use("y", "a")
    assert shown() == {("x", "a"), ("x", OTHER), (OTHER, OTHER)}
    now = 3700.0
    use("x", "b")
    assert shown() == {("x", "b"), ("x", OTHER), (OTHER, OTHER)}
    now = 9000.0
    use("y", "a")
    assert shown() == {("y", "a")}

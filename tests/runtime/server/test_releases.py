"""Releases: who answers, who is compared, when a candidate is given up, and what a restart leaves of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from adapthub.adapters.errors import (
    AdaptHubError,
    InvalidInput,
    Overloaded,
    RateLimited,
    StorageError,
    TensorMismatch,
)
from adapthub.hub.registry import Registry, Version
from adapthub.runtime.server.release_watch import count
from adapthub.runtime.server.releases import Releases, Rule, Sample, is_fault
from adapthub.runtime.tenants.caller import LOCAL, Caller
from tests import asking
from tests.runtime.server.assembled import Assembled, assembled, settled
from tests.runtime.server.encoders import write_encoder_hub
from tests.runtime.server.live import live, settings_for, write_hub
from tests.runtime.server.recording import RecordingGate
from tests.web.live import eventually

RELEASE = {"name": "acme/sql", "candidate": "acme/sql@v2"}
FINE = Sample(failed=False, ttft=0.01, seconds=0.1)


@pytest.fixture
def hub(served_base: Path, tmp_path: Path) -> Registry:
    """prod of acme/sql means v1."""
    return write_hub(served_base, tmp_path)


def version(number: int = 2) -> Version:
    return Version("acme/sql", number, f"sha256:{number:064x}", datetime.now(UTC), "", 1)


def started(weight: float = 0.5, path: Path | None = None, **rule: Any) -> tuple[Releases, str]:
    releases = Releases(path)
    return releases, releases.start(version(), "prod", "canary", weight, Rule(**rule)).id


def test_a_user_stays_on_one_side_and_the_share_is_the_weight() -> None:
    releases, id = started(0.2)
    release = releases.get(id)
    users = [f"user-{number}" for number in range(20_000)]
    taken = [user for user in users if release.takes(user)]
    assert taken == [user for user in users if release.takes(user)]
    assert abs(len(taken) / len(users) - 0.2) < 0.01  # 3.5 standard deviations
    assert set(taken) < {user for user in users if releases.reweigh(id, 0.4).takes(user)}
    assert not any(releases.reweigh(id, 0.0).takes(user) for user in users)
    assert all(releases.reweigh(id, 1.0).takes(user) for user in users)


@pytest.mark.parametrize(
    ("rule", "bad", "allowed", "words"),
    [
        ({"max_error_rate": 0.05}, Sample(True, None, 0.1), 5, "error rate"),
        ({"max_error_rate": 0}, Sample(True, None, 0.1), 0, "error rate"),
        ({"max_p95_ttft_ms": 50}, Sample(False, 0.06, 0.1), 5, "time to first token"),
        ({"max_p95_ms": 150}, Sample(False, 0.01, 0.2), 5, "latency"),
    ],
)
def test_a_rule_is_broken_by_the_first_answer_too_many(
    rule: dict[str, Any], bad: Sample, allowed: int, words: str
) -> None:
    releases, id = started(**rule, window=100)
    for _ in range(allowed):
        assert releases.count(id, bad) is None
        assert releases.count(id, FINE) is None
    ended = releases.count(id, bad)
    assert ended is not None
    assert ended.state == "rolled_back"
    assert ended.reason.startswith(words)
    assert releases.running("acme/sql", "prod") is None


def test_answers_beyond_the_window_are_forgotten() -> None:
    releases, id = started(max_error_rate=0.1, window=10)
    for _ in range(20):  # one in ten
        assert releases.count(id, Sample(True, None, 0.1)) is None
        for _ in range(9):
            assert releases.count(id, FINE) is None
    assert releases.tally(id).failed == 20


class _Counted(Sample):
    """Says how often it was looked at."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "failed":
            _Counted.looks += 1
        return super().__getattribute__(name)


def test_an_answer_is_judged_without_looking_at_the_others_again() -> None:
    releases, id = started(max_error_rate=0.5, max_p95_ms=1000, window=1000)
    for _ in range(3000):
        assert releases.count(id, _Counted(False, 0.01, 0.1)) is None
    assert _Counted.looks <= 5 * 3000


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (None, False),
        (InvalidInput("the prompt is empty"), False),
        (Overloaded("the queue is full"), False),
        (RateLimited("too many", retry_after=1.0), False),
        (TensorMismatch("a tensor is missing"), True),
        (AdaptHubError("the engine failed"), True),
        (ValueError("a defect"), True),
        (asyncio.CancelledError(), False),
    ],
)
def test_what_a_client_or_others_did_is_not_the_candidates_fault(
    error: BaseException | None, fault: bool
) -> None:
    assert is_fault(error) is fault


def test_releases_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "releases" / "base.json"
    releases, id = started(0.3, path, max_error_rate=0.1)
    releases.save()
    again = Releases(path)
    assert again.get(id) == releases.get(id)
    again.end(id, "stopped", "enough")
    again.save()
    assert Releases(path).get(id).reason == "enough"
    path.write_text('[{"id": 3}]')
    with pytest.raises(StorageError, match="does not hold releases"):
        Releases(path)


# -- with a server ------------------------------------------------------------------------------------------------------


def texts(server: Assembled) -> dict[str, str]:
    """The greedy text of each version: they differ, so a text says who answered."""
    found = {
        f"acme/sql@v{number}": server.serving.runtime.generate(
            ["ada was born"], f"acme/sql@v{number}", max_new_tokens=8, ignore_eos=True
        )[0].text
        for number in (1, 2)
    }
    assert len({*found.values()}) == 2
    return found


def test_a_canary_answers_its_users_and_nobody_else(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        gate = RecordingGate()
        async with assembled(served_base, hub, gate=gate) as server:
            expected = texts(server)
            release = await server.post("/admin/releases", **RELEASE, weight=0.5)
            seen: dict[str, set[str]] = {}
            for _ in range(3):
                for user in map(str, range(12)):
                    target, text = await server.ask("acme/sql@prod", user=user)
                    assert text == expected[target.label]
                    seen.setdefault(user, set()).add(target.label)
            assert all(len(labels) == 1 for labels in seen.values())
            assert {label for labels in seen.values() for label in labels} == {*expected}
            assert {record.adapter for record in gate.records} == {*expected}
            find = server.serving.catalog.find
            sides = [
                [(await find("acme/sql@prod", Caller(tenant, ("*",)), str(user))).label for user in range(64)]
                for tenant in ("acme", "zeta")
            ]
            assert sides[0] != sides[1]  # who is called alike elsewhere is somebody else
            for name in ("acme/sql@v1", "acme/sql", "0.5*acme/sql@prod + 0.5*acme/tone"):
                target, _ = await server.ask(name, user=min(seen))
                assert target.release is None
            found = (await server.admin.get(f"/admin/releases/{release['id']}")).json()
            on_candidate = sum(labels == {"acme/sql@v2"} for labels in seen.values())
            assert (found["answers"], found["failed"]) == (3 * on_candidate, 0)
            finished = await server.post(f"/admin/releases/{release['id']}/finish")
            assert finished["state"] == "finished"
            assert hub.resolve("acme/sql@prod").number == 2
            target, text = await server.ask("acme/sql@prod", user=min(seen))
            assert (target.release, text) == (None, expected["acme/sql@v2"])

    asyncio.run(scenario())


def test_a_candidate_that_fails_is_rolled_back_and_nobody_else_is_harmed(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            expected = texts(server)
            rule = {"max_error_rate": 0.2, "window": 10}
            release = await server.post("/admin/releases", **RELEASE, weight=1, rule=rule)
            real = server.serving.runtime.astream

            async def failing(prompt: Any, adapter: str, **options: Any) -> Any:
                if adapter.endswith(release["digest"].removeprefix("sha256:")):
                    raise TensorMismatch("a tensor is missing")
                return await real(prompt, adapter, **options)

            monkeypatch.setattr(server.serving.runtime, "astream", failing)
            for _ in range(3):
                with pytest.raises(TensorMismatch):
                    await server.ask("acme/sql@prod")
            target, text = await server.ask("acme/sql@prod")
            assert (target.label, text) == ("acme/sql@v1", expected["acme/sql@v1"])
            found = (await server.admin.get("/admin/releases")).json()["releases"][0]
            assert found["state"] == "rolled_back"
            assert "3 of the last 3 answers failed" in found["reason"]

    asyncio.run(scenario())


def test_a_candidate_that_is_not_to_be_had_fails_nobody(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            await server.post("/admin/releases", **RELEASE, weight=1)
            await server.post("/admin/adapters/unload", model="acme/sql@v2")

            def unreachable(ref: str) -> str:
                raise StorageError(f"cannot read {ref}")

            await server.ask("acme/sql@v1")
            monkeypatch.setattr(server.serving.runtime, "register", unreachable)
            target, _ = await server.ask("acme/sql@prod")
            assert target.label == "acme/sql@v1"

    asyncio.run(scenario())


def test_an_alias_that_was_moved_to_the_candidate_is_asked_as_it_is(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            await server.post("/admin/releases", **RELEASE, weight=1)
            hub.promote("acme/sql@v2", "prod")  # by `adapt promote`, or CI
            server.serving.catalog.forget_resolved()
            target = await server.serving.catalog.find("acme/sql@prod", LOCAL)
            assert (target.label, target.release) == ("acme/sql@v2", None)

    asyncio.run(scenario())


def test_a_clients_mistakes_do_not_roll_back(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            rule = {"max_error_rate": 0, "window": 1}
            await server.post("/admin/releases", **RELEASE, weight=1, rule=rule)
            with pytest.raises(InvalidInput):
                await server.ask("acme/sql@prod", max_new_tokens=100_000)
            target, _ = await server.ask("acme/sql@prod")
            assert target.label == "acme/sql@v2"

    asyncio.run(scenario())


def test_a_release_is_finished_once_and_a_late_rule_does_not_undo_it(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            rule = {"max_error_rate": 0, "window": 1}
            release = await server.post("/admin/releases", **RELEASE, rule=rule)
            real, go, asked = hub.promote, threading.Event(), list[str]()

            def promote(ref: str, alias: str) -> Version:
                asked.append(ref)
                assert go.wait(30)
                return real(ref, alias)

            monkeypatch.setattr(hub, "promote", promote)
            path = f"/admin/releases/{release['id']}/finish"
            finishing = [asyncio.create_task(server.admin.post(path)) for _ in range(2)]
            await settled(lambda: bool(asked))
            count(server.serving, release["id"], Sample(True, None, 0.1))
            go.set()
            answers = await asyncio.gather(*finishing)
            assert sorted(answer.status_code for answer in answers) == [200, 409]
            assert len(asked) == 1
            assert server.serving.catalog.releases.get(release["id"]).state == "finished"
            assert hub.resolve("acme/sql@prod").number == 2

    asyncio.run(scenario())


def test_a_release_whose_alias_cannot_be_moved_goes_on(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            release = await server.post("/admin/releases", **RELEASE)

            def full(ref: str, alias: str) -> Version:
                raise StorageError("the disk is full")

            monkeypatch.setattr(hub, "promote", full)
            path = f"/admin/releases/{release['id']}"
            failed = await server.admin.post(f"{path}/finish")
            assert not failed.is_success
            assert (await server.admin.get(path)).json() == release
            monkeypatch.undo()
            assert (await server.post(f"{path}/finish"))["state"] == "finished"

    asyncio.run(scenario())


def test_a_release_is_not_taken_up_again_beside_another() -> None:
    releases, id = started()
    before = releases.get(id)
    releases.end(id, "finished", "")
    other = releases.start(version(3), "prod", "canary", 0.5, Rule())
    assert releases.resume(before).state == "stopped"
    assert releases.running("acme/sql", "prod") == other


def test_one_index_has_vectors_of_one_version(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            await server.post("/admin/releases", **RELEASE, weight=0.5)

            async def embedded(**fields: Any) -> str:
                body = {"model": "acme/sql@prod", "input": "ada was born", **fields}
                content, headers = json.dumps(body), {"content-type": "application/json"}
                answer = await server.admin.post("/v1/embeddings", content=content, headers=headers)
                assert answer.is_success, answer.text
                return server.seen[-1].target.label

            async def inferred() -> str:
                path = "/models/acme/sql@prod/pipeline/feature-extraction"
                answer = await server.admin.post(path, json={"inputs": "ada was born"})
                assert answer.is_success, answer.text
                return server.seen[-1].target.label

            assert len({await embedded() for _ in range(12)} | {await inferred() for _ in range(12)}) == 1
            by_user = {user: {await embedded(user=user) for _ in range(2)} for user in map(str, range(16))}
            assert all(len(labels) == 1 for labels in by_user.values())
            assert len({label for labels in by_user.values() for label in labels}) == 2
            assert await embedded(user="\ud800")  # JSON can spell half a character

    asyncio.run(scenario())


def test_openais_safety_identifier_is_whom_a_canary_knows(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            await server.post("/admin/releases", **RELEASE, weight=0.5)

            async def asked(whom: str, **fields: Any) -> str:
                messages = [{"role": "user", "content": "ada"}]
                body = {"model": "acme/sql@prod", "messages": messages, "max_tokens": 1, **fields}
                answer = await server.admin.post(
                    "/v1/chat/completions", json=body | {"safety_identifier": whom}
                )
                assert answer.is_success, answer.text
                return server.seen[-1].target.label

            sides = {
                user: {await asked(user), await asked(user, user="same")} for user in map(str, range(12))
            }
            assert all(len(labels) == 1 for labels in sides.values())
            assert len({label for labels in sides.values() for label in labels}) == 2

    asyncio.run(scenario())


def test_a_shadow_that_could_compare_nothing_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    hub = write_encoder_hub(tiny_base, tmp_path)
    hub.push(hub.pull("acme/nli"), "acme/mood")

    async def scenario() -> None:
        async with assembled(tiny_base, hub) as server:
            body = {"name": "acme/mood", "candidate": "acme/mood@v2"}
            refused = await server.admin.post("/admin/releases", json=body | {"kind": "shadow"})
            assert refused.status_code == 400
            assert "is for text-classification" in refused.json()["error"]["message"]
            await server.post("/admin/releases", **body)

    asyncio.run(scenario())


def test_a_shadow_is_compared_and_never_heard_or_billed(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        gate = RecordingGate()
        async with assembled(served_base, hub, gate=gate) as server:
            expected = texts(server)
            release = await server.post("/admin/releases", **RELEASE, kind="shadow")
            tally = server.serving.catalog.releases.tally(release["id"])
            answers = await asyncio.gather(*(server.ask("acme/sql@prod") for _ in range(4)))
            assert {(target.label, text) for target, text in answers} == {
                ("acme/sql@v1", expected["acme/sql@v1"])
            }
            await settled(lambda: tally.compared == 4)
            assert (tally.equal, tally.tokens, tally.candidate_tokens) == (0, 32, 32)
            assert [record.adapter for record in gate.records] == ["acme/sql@v1"] * 4
            assert len(server.seen) == 4
            # One token is where the two agree or not: the same text from both is counted as such.
            same = {text[0] for text in (t.split() for t in expected.values())}
            await server.ask("acme/sql@prod", max_new_tokens=1)
            await settled(lambda: tally.compared == 5)
            assert tally.equal == (len(same) == 1)
            await server.admin.delete(f"/admin/releases/{release['id']}")
            target, _ = await server.ask("acme/sql@prod")
            assert target.shadow is None

    asyncio.run(scenario())


def test_a_shadow_waits_behind_the_last_of_all_requests(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tenants they are in one queue; clients choose their priorities."""
    with live(settings_for(served_base), hub) as running, asking.client(base_url=running.address) as client:
        client.post("/admin/releases", json={**RELEASE, "kind": "shadow"}).raise_for_status()
        engine, asked = running.serving.runtime.generation.engine, []
        submit = engine.submit

        def noted(request: Any) -> None:
            asked.append((request.tenant, request.priority))
            submit(request)

        monkeypatch.setattr(engine, "submit", noted)
        body = {"model": "acme/sql@prod", "prompt": "ada", "priority": 2**31 - 1, "max_tokens": 2}
        client.post("/v1/completions", json=body).raise_for_status()
        eventually(lambda: len(asked) == 2, "there is no shadow")
    (own, shadow) = asked
    assert shadow[0] == own[0]
    assert shadow[1] < own[1]


def test_a_shadow_that_fails_is_rolled_back_unheard(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            expected = texts(server)
            rule = {"max_error_rate": 0, "window": 1}
            release = await server.post("/admin/releases", **RELEASE, kind="shadow", rule=rule)
            real = server.serving.runtime.astream

            async def failing(prompt: Any, adapter: str, **options: Any) -> Any:
                if options.get("priority"):
                    raise TensorMismatch("a tensor is missing")
                return await real(prompt, adapter, **options)

            monkeypatch.setattr(server.serving.runtime, "astream", failing)
            target, text = await server.ask("acme/sql@prod")
            assert (target.label, text) == ("acme/sql@v1", expected["acme/sql@v1"])
            releases = server.serving.catalog.releases
            await settled(lambda: releases.get(release["id"]).state == "rolled_back")

    asyncio.run(scenario())


@pytest.fixture
def http(served_base: Path, hub: Registry) -> Iterator[httpx2.Client]:
    with live(settings_for(served_base), hub) as running, asking.client(base_url=running.address) as client:
        yield client


def test_openais_user_stays_on_one_side_and_the_header_says_which(http: httpx2.Client) -> None:
    def ask(model: str, user: str, stream: bool = False) -> tuple[str, str]:
        """The version by the header, and the text."""
        with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
            raw = client.completions.with_raw_response.create(
                model=model,
                prompt="ada was born",
                max_tokens=8,
                temperature=0,
                user=user,
                stream=stream,
                extra_body={"ignore_eos": True},
            )
            parsed: Any = raw.parse()
            chunks = [*parsed] if stream else [parsed]
            return raw.headers["x-adapter-version"], "".join(chunk.choices[0].text for chunk in chunks)

    expected = dict(ask(f"acme/sql@v{number}", "") for number in (1, 2))
    assert len({*expected.values()}) == 2
    http.post("/admin/releases", json={**RELEASE, "weight": 0.5}).raise_for_status()
    answers = {user: ask("acme/sql@prod", user) for user in map(str, range(16))}
    assert dict(answers.values()) == expected  # both answer, each with its own text
    for user, answer in answers.items():
        assert ask("acme/sql@prod", user, stream=True) == answer


def test_bad_releases_are_refused_and_a_good_one_outlives_the_server(
    http: httpx2.Client, hub: Registry, served_base: Path
) -> None:
    def refused(status: int, words: str, **fields: Any) -> None:
        answer = http.post("/admin/releases", json={**RELEASE, **fields})
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]["message"]

    refused(400, "less than or equal to 1", weight=1.1)
    refused(400, "greater than or equal to 0", weight=-0.1)
    refused(400, "weight", weight="NaN")
    refused(400, "is no version of acme/sql", candidate="acme/tone@v1")
    refused(404, "v9", candidate="acme/sql@v9")
    refused(409, "means v1 already", candidate="acme/sql@v1")
    refused(404, "staging", alias="staging")
    refused(400, "kind", kind="ab")
    refused(400, "rule.window", rule={"window": 0})
    refused(400, "rule.max_errors", rule={"max_errors": 3})
    created = http.post("/admin/releases", json={**RELEASE, "weight": 0.25})
    assert created.status_code == 201
    id = created.json()["id"]
    refused(409, "is running")
    assert http.patch(f"/admin/releases/{id}", json={"weight": 0.5}).json()["weight"] == 0.5
    assert http.get("/admin/releases/none").status_code == 404
    with (
        live(settings_for(served_base), hub) as again,
        asking.client(base_url=again.address) as restarted,
    ):
        found = restarted.get(f"/admin/releases/{id}").json()
        assert (found["state"], found["weight"], found["candidate"]) == ("running", 0.5, "acme/sql@v2")
        assert restarted.delete(f"/admin/releases/{id}").json()["state"] == "stopped"
        assert restarted.delete(f"/admin/releases/{id}").status_code == 409
        assert restarted.post(f"/admin/releases/{id}/finish").status_code == 409

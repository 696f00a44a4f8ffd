"""What a model means at admission, while administrators and other processes change it: over the parts of a server."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import AdapterNotFound, InvalidExpression, StorageError
from adapthub.hub.registry import Registry, Version
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server import catalog as catalog_module
from adapthub.runtime.server import pulls, resolving
from adapthub.runtime.server.answering import begin
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.tenants.caller import LOCAL, Caller
from tests.adapters.causal_pass import CAUSAL
from tests.adapters.peft_oracle import save_adapter
from tests.runtime.generating import lora
from tests.runtime.server.assembled import Assembled, assembled, settled
from tests.runtime.server.live import settings_for, write_hub


@pytest.fixture
def hub(served_base: Path, tmp_path: Path) -> Registry:
    """prod of acme/sql means v1."""
    return write_hub(served_base, tmp_path)


@pytest.fixture(scope="module")
def folders(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters that are in no hub and answer differently."""
    root = tmp_path_factory.mktemp("folders")
    return [save_adapter(served_base, root / str(seed), CAUSAL, lora(), seed=seed) for seed in (7, 8)]


@pytest.fixture
def resolved(hub: Registry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The references that the hub was asked for."""
    asked: list[str] = []
    real = hub.resolve

    def resolve(ref: Any) -> Version:
        asked.append(str(ref))
        time.sleep(0.05)  # others ask meanwhile
        return real(ref)

    monkeypatch.setattr(hub, "resolve", resolve)
    return asked


async def text_of(server: Assembled, target: Target, choices: int = 1) -> list[str]:
    """The greedy texts of what was found before."""
    ids = server.serving.runtime.generation.prompt_ids("ada was born")
    sampling = Sampling(max_new_tokens=8, temperature=0, ignore_eos=True)
    texts = [""] * choices
    answer = await begin(server.serving, LOCAL, target, "completion", [ids], [sampling] * choices)
    async with answer:
        async for choice, event in answer:
            texts[choice] += event.text
    return texts


def test_administrators_see_an_alias_that_moved_elsewhere_at_once(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            for number, then in ((1, 2), (2, 1), (1, 2), (2, 1)):
                hub.promote(f"acme/sql@v{number}", "staging")
                server.serving.catalog.forget_resolved()
                await server.ask("acme/sql@staging")
                hub.promote(f"acme/sql@v{then}", "staging")  # by `adapt promote`, or CI
                if number == 1:
                    promoted = await server.post("/admin/promote", ref="acme/sql@staging", alias="live")
                    assert promoted["version"] == "v2"
                    assert hub.resolve("acme/sql@live").number == 2
                else:
                    pinned = await server.post("/admin/adapters/pin", model="acme/sql@staging")
                    assert pinned["version"] == "acme/sql@v1"

    asyncio.run(scenario())


def test_a_release_starts_from_what_the_hub_says_now(served_base: Path, hub: Registry) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            await server.ask("acme/sql@prod")
            hub.promote("acme/sql@v2", "prod")
            body = {"name": "acme/sql", "candidate": "acme/sql@v2"}
            refused = await server.admin.post("/admin/releases", json=body)
            assert refused.status_code == 409, refused.text

    asyncio.run(scenario())


def test_what_was_found_never_runs_on_other_weights(
    served_base: Path, hub: Registry, folders: list[Path], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog, runtime = server.serving.catalog, server.serving.runtime

            def gone(target: Target) -> bool:
                return target.adapter not in {resident.digest for resident in runtime.resident}

            source = shutil.copytree(folders[0], tmp_path / "mine")
            await catalog.load_as("mine", str(source))
            _, old = await server.ask("mine")
            found = await catalog.find("mine", LOCAL)
            summed = await catalog.find("0.5*mine + 0.5*acme/tone", LOCAL)
            assert await text_of(server, found, choices=2) == [old, old]
            await text_of(server, summed)
            shutil.rmtree(source)
            shutil.copytree(folders[1], source)
            await catalog.load_as("mine", str(source), again=True)
            await settled(lambda: gone(found))
            for target in (found, summed):
                with pytest.raises(AdapterNotFound, match="was unloaded or replaced"):
                    await text_of(server, target)
            last, new = await server.ask("mine")
            assert new != old
            await catalog.unload_as("mine")
            await settled(lambda: gone(last))
            with pytest.raises(AdapterNotFound, match="was unloaded or replaced"):
                await text_of(server, last)
            assert gone(last)
            assert str(source) not in runtime.attached

    asyncio.run(scenario())


def test_a_folder_may_lose_one_name_while_it_gets_another(
    served_base: Path, hub: Registry, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog, runtime, source = server.serving.catalog, server.serving.runtime, str(folders[0])
            await catalog.load_as("one", source)
            real, loop = runtime.attach, asyncio.get_running_loop()

            def attach(source: str) -> str:
                digest = real(source)
                if "one" in catalog.folders:
                    asyncio.run_coroutine_threadsafe(catalog.unload_as("one"), loop).result()
                return digest

            monkeypatch.setattr(runtime, "attach", attach)
            await catalog.load_as("two", source)
            assert [*catalog.folders] == ["two"]
            await server.ask("two")

    asyncio.run(scenario())


def test_what_began_goes_on_while_a_folder_is_replaced(
    served_base: Path, hub: Registry, folders: list[Path], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog = server.serving.catalog
            source = shutil.copytree(folders[0], tmp_path / "mine")
            await catalog.load_as("mine", str(source))
            target, old = await server.ask("mine")
            ids = server.serving.runtime.generation.prompt_ids("ada was born")
            stream = await server.serving.runtime.astream(
                ids, target.adapter, max_new_tokens=300, ignore_eos=True
            )
            shutil.copytree(folders[1], source, dirs_exist_ok=True)
            await catalog.load_as("mine", str(source), again=True)
            assert await text_of(server, target) == [old]  # as another choice of the same request
            stream.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("api", ["openai", "inference"])
def test_what_is_unloaded_or_replaced_while_a_prompt_is_read_fails_nobody(
    served_base: Path, hub: Registry, folders: list[Path], monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    """A request runs on what its model meant when it was admitted, also where nothing ran on that by then."""
    models = ("mine", "acme/sql@v1", "0.5*mine + 0.5*acme/tone")

    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog, runtime = server.serving.catalog, server.serving.runtime
            service = runtime.generation

            async def text(model: str) -> str:
                if api == "openai":
                    settings = {"max_tokens": 8, "temperature": 0}
                    answer = await server.post(
                        "/v1/completions", model=model, prompt="ada was born", **settings
                    )
                    return str(answer["choices"][0]["text"])
                (answer,) = await server.post(
                    f"/models/{model}", inputs="ada was born", parameters={"max_new_tokens": 8}
                )
                return str(answer["generated_text"])

            async def texts() -> list[str]:
                return await asyncio.gather(*map(text, models))

            await catalog.load_as("mine", str(folders[0]))
            before = await texts()
            old = runtime.attached[str(folders[0])]
            real, reading, go = service.prompt_ids, threading.Semaphore(0), threading.Event()

            def slow(*arguments: Any, **options: Any) -> list[int]:
                reading.release()
                assert go.wait(60)
                return real(*arguments, **options)

            monkeypatch.setattr(service, "prompt_ids", slow)
            asking = asyncio.create_task(texts())
            for _ in models:
                assert await asyncio.to_thread(reading.acquire, timeout=60)
            await catalog.load_as("mine", str(folders[1]), again=True)
            await catalog.unload("acme/sql@v1")
            go.set()
            assert await asking == before
            await settled(lambda: old not in {resident.digest for resident in runtime.resident})
            assert (await texts())[0] != before[0]

    asyncio.run(scenario())


def test_nothing_stays_of_what_a_name_meant_before(
    served_base: Path, hub: Registry, folders: list[Path]
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog, runtime = server.serving.catalog, server.serving.runtime
            await catalog.load_as("mine", str(folders[0]))
            await catalog.load_as("ours", str(folders[0]))
            await catalog.load_as("mine", str(folders[1]), again=True)
            assert {*runtime.attached} == {str(folder) for folder in folders}
            _, text = await server.ask("ours")
            assert text != (await server.ask("mine"))[1]
            await catalog.load_as("ours", "acme/sql@prod", again=True)
            assert str(folders[0]) not in runtime.attached
            refused = await server.admin.post("/admin/adapters/unload", json={"model": "acme/sql@v1"})
            assert (refused.status_code, "is loaded as ours" in refused.text) == (409, True)
            await catalog.unload_as("mine")
            await catalog.unload_as("ours")
            assert not runtime.attached

    asyncio.run(scenario())


def test_one_adapter_by_two_names_is_no_sum(served_base: Path, hub: Registry) -> None:
    hub.push(hub.pull("acme/sql@v1"), "zeta/fork")

    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            with pytest.raises(InvalidExpression, match="mean the same adapter"):
                await server.serving.catalog.find("0.5*acme/sql@v1 + 0.5*zeta/fork", LOCAL)

    asyncio.run(scenario())


def test_the_longest_unasked_goes_but_not_what_is_to_stay(
    served_base: Path, hub: Registry, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "_KNOWN", 1)

    async def scenario() -> None:
        async with assembled(served_base, hub, adapters=("acme/sql@v2", "*")) as server:
            catalog = server.serving.catalog
            await catalog.preload()
            await catalog.pin("acme/sql@v1")
            await catalog.load_as("own", "zeta/own")
            await server.ask("acme/tone")
            assert sum(resident.pinned for resident in server.serving.runtime.resident) == 1
            labels = {label for names in catalog.labels.values() for label in names}
            assert labels == {"acme/sql@v2", "acme/sql@v1", "own", "zeta/own@v1", "acme/tone@v1"}
            await catalog.unpin("acme/sql@v1")
            await catalog.unload_as("own")
            await server.ask("zeta/own")
            labels = {label for names in catalog.labels.values() for label in names}
            assert labels == {"acme/sql@v2", "zeta/own@v1"}

    asyncio.run(scenario())


def test_a_version_that_goes_and_comes_at_once_is_there(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "_KNOWN", 1)

    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog, runtime = server.serving.catalog, server.serving.runtime
            await catalog.find("acme/sql@v1", LOCAL)
            real, going = runtime.detach, threading.Event()

            def detach(ref: str) -> None:
                going.set()
                time.sleep(0.2)
                real(ref)

            monkeypatch.setattr(runtime, "detach", detach)
            other = asyncio.create_task(catalog.find("acme/tone", LOCAL))
            while not going.is_set():
                await asyncio.sleep(0.001)
            monkeypatch.setattr(runtime, "detach", real)
            again = await catalog.find("acme/sql@v1", LOCAL)
            await other
            assert again.adapter in runtime.attached.values()

    asyncio.run(scenario())


@pytest.mark.parametrize("leaves", [False, True])
def test_what_is_unloaded_while_it_is_pulled_fails_nobody_who_asked(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """Neither who asked before the administrator did, nor who asked after, also where the first `leaves`."""

    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog, runtime = server.serving.catalog, server.serving.runtime
            real, begun, pulled = runtime.register, threading.Event(), threading.Event()

            def register(ref: str) -> str:
                begun.set()
                assert pulled.wait(60)
                return real(ref)

            monkeypatch.setattr(runtime, "register", register)
            asking = [asyncio.create_task(server.ask("acme/sql@v1"))]
            assert await asyncio.to_thread(begun.wait, 60)
            unloading = asyncio.create_task(catalog.unload("acme/sql@v1"))
            await asyncio.sleep(0.1)
            asking.append(asyncio.create_task(server.ask("acme/sql@v1")))
            await asyncio.sleep(0.1)
            if leaves:
                asking.pop(0).cancel()
            pulled.set()
            assert len({text for _, text in await asyncio.gather(*asking)}) == 1
            await unloading
            assert not runtime.attached

    asyncio.run(scenario())


def test_adapters_that_are_slow_to_pull_leave_threads_to_others(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "_AT_ONCE", 2)
    names = ("acme/sql@v1", "acme/sql@v2", "acme/tone", "zeta/own")

    async def scenario() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
        async with assembled(served_base, hub) as server:
            runtime, pulled = server.serving.runtime, threading.Event()
            real = runtime.register

            def register(ref: str) -> str:
                assert pulled.wait(60)
                return real(ref)

            monkeypatch.setattr(runtime, "register", register)
            finding = [asyncio.create_task(server.serving.catalog.find(name, LOCAL)) for name in names]
            try:
                async with asyncio.timeout(20):
                    await server.ask(server.serving.catalog.base_name)
            finally:
                pulled.set()
            assert len({(await found).label for found in finding}) == len(names)

    asyncio.run(scenario())


def test_no_tenant_takes_all_pulls(served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does another wait for it where it asks for what that one also wants, later."""
    monkeypatch.setattr(pulls, "_AT_ONCE", 2)
    monkeypatch.setattr(pulls, "_OF_ONE", 1)
    flood, other = (Caller(tenant, ("*",)) for tenant in ("flood", "other"))

    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog, runtime = server.serving.catalog, server.serving.runtime
            real, slow, pulled = runtime.register, threading.Event(), threading.Event()

            def register(ref: str) -> str:
                if ref.startswith("acme/tone"):
                    slow.set()
                    assert pulled.wait(60)
                return real(ref)

            monkeypatch.setattr(runtime, "register", register)
            finding = [asyncio.create_task(catalog.find("acme/tone", flood)) for _ in range(2)]
            try:
                async with asyncio.timeout(20):
                    while not slow.is_set():
                        await asyncio.sleep(0.001)
                    names = ("acme/sql@v1", "zeta/own")
                    finding += [asyncio.create_task(catalog.find(name, flood)) for name in names]
                    await asyncio.sleep(0)
                    assert (await catalog.find("acme/sql@v1", other)).label == "acme/sql@v1"
                assert not any(found.done() for found in finding)
            finally:
                pulled.set()
            assert len({(await found).label for found in finding}) == 3

    asyncio.run(scenario())


def test_the_hub_is_asked_once_for_a_version(
    served_base: Path, hub: Registry, resolved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "_FRESH", 0.0)

    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            catalog = server.serving.catalog
            digest = hub.resolve("acme/sql@v2").digest.removeprefix("sha256:")
            for name in ("acme/sql@v1", f"acme/sql@{digest}"):
                resolved.clear()
                await asyncio.gather(*(catalog.find(name, LOCAL) for _ in range(8)))
                catalog.forget_resolved()
                await catalog.find(name, LOCAL)
                assert resolved == [name]
            resolved.clear()
            await asyncio.gather(*(catalog.find("acme/sql@prod", LOCAL) for _ in range(8)))
            assert len(resolved) == 1
            await catalog.find("acme/sql@prod", LOCAL)
            assert len(resolved) == 2

    asyncio.run(scenario())


def test_one_that_stops_waiting_stops_nobody_else(
    served_base: Path, hub: Registry, resolved: list[str]
) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            first = asyncio.create_task(server.serving.catalog.find("acme/sql@prod", LOCAL))
            second = asyncio.create_task(server.serving.catalog.find("acme/sql@prod", LOCAL))
            while not resolved:
                await asyncio.sleep(0.001)
            first.cancel()
            assert (await second).label == "acme/sql@v1"
            assert len(resolved) == 1

    asyncio.run(scenario())


def test_known_versions_are_served_without_the_hub(
    served_base: Path, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "_FRESH", 0.0)

    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            _, text = await server.ask("acme/sql@v1")
            await server.ask("acme/sql@prod")

            def gone(ref: object) -> Version:
                raise StorageError("cannot read the hub")

            monkeypatch.setattr(hub, "resolve", gone)
            assert await server.ask("acme/sql@v1") == (
                await server.serving.catalog.find("acme/sql@v1", LOCAL),
                text,
            )
            with pytest.raises(StorageError):
                await server.ask("acme/sql@prod")

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/models/{}", "/models/{}/health"])
def test_looking_a_model_up_registers_nothing(served_base: Path, hub: Registry, path: str) -> None:
    async def scenario() -> None:
        async with assembled(served_base, hub) as server:
            for name in ("acme/sql", "acme/sql@v2", settings_for(served_base).base):
                assert (await server.admin.get(path.format(name))).status_code == 200
            assert (await server.admin.get(path.format("acme/none"))).status_code == 404
            assert not server.serving.runtime.resident

    asyncio.run(scenario())

"""Models as a client sees them: what is there, what a name means, and what is not there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest

from adapthub.adapters.artifact import write_artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Registry
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.tenants.caller import LOCAL
from tests.runtime.server.assembled import assembled
from tests.runtime.server.keyed import KeyedGate


def test_the_base_and_the_hubs_adapters_are_models(client: openai.OpenAI, server: Running) -> None:
    base = server.serving.catalog.base_name
    assert [model.id for model in client.models.list()] == [base, "acme/sql", "acme/tone", "zeta/own"]
    assert client.models.retrieve(base).id == base


def test_a_folder_of_this_machine_is_shown_by_its_last_part(
    client: openai.OpenAI, server: Running, served_base: Path
) -> None:
    assert server.serving.catalog.base_name == served_base.name
    for name in (served_base.name, str(served_base)):
        assert client.models.retrieve(name).to_dict()["parent"] is None
        assert client.completions.create(model=name, prompt="ada", max_tokens=1).usage
    with pytest.raises(openai.NotFoundError) as absent:
        client.models.retrieve("acme/none")
    assert str(served_base) not in str(absent.value)
    assert client.models.retrieve("acme/sql").to_dict()["parent"] == served_base.name


def test_what_was_unloaded_meanwhile_fails_nobody(
    served_base: Path, served_hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.runtime.server.catalog._KNOWN", 1)

    async def main() -> None:
        async with assembled(served_base, served_hub) as server:
            catalog = server.serving.catalog
            target = await catalog.find("acme/sql", LOCAL)
            server.serving.runtime.detach(target.adapter or "")
            assert (await catalog.find("acme/tone", LOCAL)).label == "acme/tone@v1"
            await catalog.find("zeta/own", LOCAL)
            assert [*catalog.labels.values()] == [["zeta/own@v1"]]
            monkeypatch.setattr("adapthub.runtime.server.catalog._KNOWN", 2)
            for name in ("acme/tone", "zeta/own", "acme/sql@v1"):
                await catalog.find(name, LOCAL)
            assert [*catalog.labels.values()] == [["zeta/own@v1"], ["acme/sql@v1"]]

    asyncio.run(main())


def test_a_loaded_name_is_there_for_those_who_may_use_it(served_base: Path, served_hub: Registry) -> None:
    """Whatever it means: zeta/sql here is an adapter of acme's."""

    async def main() -> None:
        async with assembled(served_base, served_hub, gate=KeyedGate()) as server:
            catalog = server.serving.catalog
            for name in ("zeta/sql", "mine"):
                await catalog.load_as(name, "acme/sql@v1")
            for tenant, there in (("acme", set()), ("zeta", {"zeta/sql"}), ("root", {"zeta/sql", "mine"})):
                headers = {"Authorization": f"Bearer {tenant}-key"}
                listed = (await server.admin.get("/v1/models", headers=headers)).json()["data"]
                assert {"zeta/sql", "mine"} & {model["id"] for model in listed} == there
                for name in ("zeta/sql", "mine"):
                    answer = await server.admin.get(f"/v1/models/{name}", headers=headers)
                    assert answer.status_code == (200 if name in there else 404), (tenant, name)
            await catalog.unload_as("zeta/sql")
            await catalog.unload_as("mine")

    asyncio.run(main())


@pytest.mark.parametrize(
    "name", ["acme/sql", "acme/sql@prod", "acme/sql@v2", "0.5*acme/sql - 0.25*acme/tone"]
)
def test_a_model_is_found_by_every_name_that_it_has(client: openai.OpenAI, name: str) -> None:
    assert client.models.retrieve(name).id == name


@pytest.mark.parametrize(
    "name", ["acme/none", "sql", "../../etc/passwd", "/tmp", "acme/sql@v9", "hf::acme/sql"]
)
def test_what_is_not_there_is_404(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)


def test_a_model_says_when_it_was_made_as_the_list_does(client: openai.OpenAI, served_hub: Registry) -> None:
    listed = {model.id: model.created for model in client.models.list()}
    for name in ("acme/sql", "acme/tone"):
        made = int(served_hub.resolve(Reference.parse(name)).created.timestamp())
        assert made > 0
        assert client.models.retrieve(name).created == listed[name] == made
    first, newest = (client.models.retrieve(f"acme/sql@v{at}").created for at in (1, 2))
    assert newest == listed["acme/sql"]
    tone = listed["acme/tone"]
    assert client.models.retrieve("0.5*acme/sql@v1 - 0.25*acme/tone").created == max(first, tone)


def test_a_loaded_folder_says_when_it_was_made(
    served_base: Path, served_hub: Registry, tmp_path: Path
) -> None:
    """As its manifest does; the base says nothing, nor does a plain folder of PEFT's."""
    plain = served_hub.pull("acme/sql@v1")
    assert plain.manifest is None
    fingerprint = load_base(str(served_base)).fingerprint
    manifest = Manifest(
        task="text-generation",
        base=BaseRecord(id=str(served_base), fingerprint=fingerprint),
        method="lora",
        created=datetime(2025, 4, 3, 2, 1, tzinfo=UTC),
    )
    folder = write_artifact(
        tmp_path / "mine", manifest=manifest, card="card\n", config=plain.config, tensors=plain.tensors()
    )

    async def main() -> None:
        async with assembled(served_base, served_hub) as server:
            await server.serving.catalog.load_as("mine", str(folder.path))
            await server.serving.catalog.load_as("plain", str(plain.path))
            listed = (await server.admin.get("/v1/models")).json()["data"]
            times = {model["id"]: model["created"] for model in listed}
            assert times["mine"] == int(manifest.created.timestamp())
            assert times["plain"] == 0
            assert (await server.admin.get("/v1/models/mine")).json()["created"] == times["mine"]
            base = server.serving.catalog.base_name
            assert (await server.admin.get(f"/v1/models/{base}")).json()["created"] == times[base] == 0
            for name in ("mine", "plain"):
                await server.serving.catalog.unload_as(name)

    asyncio.run(main())


def test_health_and_readiness(client: openai.OpenAI, server: Running) -> None:
    http = client.with_options(base_url=server.address)
    assert http.get("/health", cast_to=object) == {"status": "ok"}
    assert http.get("/ready", cast_to=object) == {"status": "ready"}

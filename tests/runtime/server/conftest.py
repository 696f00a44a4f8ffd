"""One server for the tests that only ask it; what changes a server starts one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from adapthub.hub import open_hub
from adapthub.hub.registry import Registry
from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.encoders import write_encoder_hub
from tests.runtime.server.live import live, settings_for, write_base, write_hub, write_spelling_base


@pytest.fixture(scope="session")
def served_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def served_hub(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Do not push to it or move its aliases."""
    return write_hub(served_base, tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def server(served_base: Path, served_hub: Registry) -> Iterator[Running]:
    """Without tenants. Do not load, unload or stop it."""
    with live(settings_for(served_base), served_hub) as running:
        yield running


@pytest.fixture(scope="session")
def spelling_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Its tokenizer can follow grammars, and its chat template has tools. Without adapters. Do not stop it."""
    base = write_spelling_base(tmp_path_factory.mktemp("spelling"))
    with live(settings_for(base), open_hub(tmp_path_factory.mktemp("empty") / "hub")) as running:
        yield running


@pytest.fixture(scope="session")
def speller(spelling_server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{spelling_server.address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def encoder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server over an encoder, without tenants, with the adapters of `write_encoder_hub`. Do not change it."""
    hub = write_encoder_hub(tiny_base, tmp_path_factory.mktemp("encoder-hub"))
    with live(settings_for(tiny_base), hub) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        yield client

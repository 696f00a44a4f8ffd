"""Models as a client sees them: what is there, what a name means, and what is not there."""

from __future__ import annotations

import openai
import pytest

from adapthub.runtime.server.lifecycle import Running


def test_the_base_and_the_hubs_adapters_are_models(client: openai.OpenAI, server: Running) -> None:
    base = server.serving.catalog.base_name
    assert [model.id for model in client.models.list()] == [base, "acme/sql", "acme/tone", "zeta/own"]
    assert client.models.retrieve(base).id == base


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


def test_health_and_readiness(client: openai.OpenAI, server: Running) -> None:
    http = client.with_options(base_url=server.address)
    assert http.get("/health", cast_to=object) == {"status": "ok"}
    assert http.get("/ready", cast_to=object) == {"status": "ready"}

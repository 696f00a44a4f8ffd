"""What a server answers to a plain GET, and its /metrics read as Prometheus reads it."""

from __future__ import annotations

from email.message import Message
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

from adapthub.runtime.server.lifecycle import Running


def get(running: Running, path: str, key: str | None = None) -> tuple[int, Message, str]:
    """Status, headers and text."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urlopen(Request(f"{running.address}{path}", headers=headers)) as response:
            return response.status, response.headers, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


class Scrape:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self._samples}

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of adapthub_{name} over the samples that have these labels; 0 where there are none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"adapthub_{name}" and labels.items() <= sample.labels.items()
        )


def scrape(running: Running, key: str | None = None) -> Scrape:
    status, _, text = get(running, "/metrics", key)
    assert status == 200, text
    return Scrape(text)

"""Feedback over HTTP, what is kept of it with and without the log of requests, and that as data that recipes read."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
from click.testing import CliRunner

from adapthub.adapters.errors import NotFound
from adapthub.cli.main import adapt
from adapthub.hub.registry import Registry
from adapthub.recipes.catalog import find_recipe
from adapthub.runtime.examples import examples
from adapthub.runtime.feedback import FeedbackStore, Logged, Rating
from adapthub.runtime.redaction import Redaction
from adapthub.runtime.requests import Usage
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.feedback_log import FeedbackLog
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.observation import Observation
from tests.runtime.server.keyed import KeyedGate
from tests.runtime.server.live import live, settings_for
from tests.web.live import eventually

SECRET = "alice visited london bob@example.org"
TEXT = "Ada met Bob in London"
NER = [
    {"entity_group": "PER", "word": "Ada", "start": 0, "end": 3, "score": 0.9},
    {"entity_group": "LOC", "word": "London", "start": 15, "end": 21, "score": 0.8},
]
CLASSES = [[{"label": "good", "score": 0.7}, {"label": "bad", "score": 0.3}]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """AdaptHub's home for the servers of this module."""
    home = tmp_path_factory.mktemp("feedback")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTHUB_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def silent(served_base: Path, served_hub: Registry, kept: Path) -> Iterator[Running]:
    """With tenants, and without a log of requests."""
    with live(settings_for(served_base), served_hub, KeyedGate()) as running:
        yield running


@pytest.fixture(scope="module")
def logged(
    served_base: Path, served_hub: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Path]]:
    """With a log of requests, in a home of its own."""
    home = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTHUB_HOME", str(home))
        with live(settings_for(served_base, request_log=Redaction()), served_hub, KeyedGate()) as running:
            yield running, home / "feedback.sqlite"


def answer_of(running: Running, key: str, prompt: str = "a b", stream: bool = False) -> tuple[str, str]:
    """The id and text of an answer."""
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key=key, max_retries=0) as client:
        if not stream:
            whole = client.completions.create(model="acme/tone", prompt=prompt, max_tokens=4)
            return whole.id, whole.choices[0].text
        parts = list(client.completions.create(model="acme/tone", prompt=prompt, max_tokens=4, stream=True))
        return parts[0].id, "".join(choice.text for part in parts for choice in part.choices)


def rate(running: Running, key: str | None, **body: Any) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = Request(f"{running.address}/v1/feedback", json.dumps(body).encode(), headers)
    try:
        with urlopen(request) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def logged_as(file: Path, id: str) -> Logged:
    """A request once it is logged."""
    store = FeedbackStore(file)
    eventually(lambda: store.request(id) is not None, "the request is not logged")
    request = store.request(id)
    assert request is not None
    return request


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[FeedbackLog, Path]]:
    """A log without a server."""
    file = tmp_path / "feedback.sqlite"
    log = FeedbackLog(FeedbackStore(file), Redaction())
    yield log, file
    log.close()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Within: nobody else can write the file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def test_without_the_log_a_rating_stands_alone(silent: Running, kept: Path) -> None:
    id, _ = answer_of(silent, "acme-key", SECRET)
    assert rate(silent, "acme-key", request_id=id, rating="up", correction="alice left", comment="fine") == (
        200,
        {"object": "feedback", "request_id": id, "rating": 1.0, "kept": "rating"},
    )
    [one] = [one for one in FeedbackStore(kept / "feedback.sqlite").all() if one.rating.request_id in id]
    assert (one.rating.rating, one.rating.tenant) == (1.0, "acme")
    assert (one.request, one.rating.correction, one.rating.comment) == (None, None, None)
    written = b"".join(file.read_bytes() for file in kept.glob("feedback.sqlite*"))
    assert not [word for word in ("alice", "bob", "fine") if word.encode() in written]


def test_a_later_rating_replaces_an_earlier_one(silent: Running, kept: Path) -> None:
    id, _ = answer_of(silent, "acme-key")
    for rating in ("up", -0.5):
        assert rate(silent, "acme-key", request_id=id, rating=rating)[0] == 200
    ratings = [one.rating for one in FeedbackStore(kept / "feedback.sqlite").all()]
    assert [rating.rating for rating in ratings if rating.request_id in id] == [-0.5]


def test_only_the_tenant_of_a_request_rates_it(silent: Running) -> None:
    id, _ = answer_of(silent, "acme-key")
    assert rate(silent, None, request_id=id, rating="up")[0] == 401
    foreign = rate(silent, "zeta-key", request_id=id, rating="up")
    absent = rate(silent, "zeta-key", request_id=id[:-1] + "-", rating="up")
    assert foreign[0] == absent[0] == 404
    assert foreign[1]["error"]["type"] == absent[1]["error"]["type"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rating": "great"},
        {"rating": 1.5},
        {"rating": True},
        {"rating": None},
        {"rating": "up", "correction": {"a": 1}},
        {"rating": "up", "correction": [{"start": -1, "end": 2, "label": "X"}]},
        {"rating": "up", "comment": "x" * 10_001},
        {"rating": "up", "tenant": "zeta"},
        {"rating": "up", "request_id": ""},
    ],
)
def test_what_is_no_feedback_is_refused(silent: Running, wrong: dict[str, Any]) -> None:
    status, body = rate(silent, "acme-key", **({"request_id": "0"} | wrong))
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")


def test_the_log_keeps_prompts_and_answers_masked(logged: tuple[Running, Path]) -> None:
    running, file = logged
    for stream in (False, True):
        id, text = answer_of(running, "acme-key", SECRET, stream)
        request = logged_as(file, id.rpartition("-")[2])
        assert (request.tenant, request.kind, request.adapter) == ("acme", "completion", "acme/tone@v1")
        assert "alice visited london" in request.input
        assert request.output == [text]
    assert rate(running, "zeta-key", request_id=id, rating="up")[0] == 404
    status, body = rate(
        running, "acme-key", request_id=id, rating="down", correction="ask 0123 4567 89", comment="a@b.org"
    )
    assert (status, body["kept"]) == (200, "everything")
    one = FeedbackStore(file).all()[-1]
    assert (one.rating.correction, one.rating.comment) == ("ask 0000 0000 00", "x@x.xxx")


@pytest.mark.parametrize("token", [-1, 10**12])
def test_ids_that_are_no_tokens_are_refused_before_they_are_logged(
    logged: tuple[Running, Path], token: int
) -> None:
    running, _ = logged
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="acme-key", max_retries=0) as client:
        for options in ({}, {"echo": True}):
            with pytest.raises(openai.BadRequestError, match="outside the vocabulary"):
                client.completions.create(model="acme/tone", prompt=[token], max_tokens=2, extra_body=options)


def test_entities_outside_the_text_are_refused(logged: tuple[Running, Path]) -> None:
    running, _ = logged
    running.serving.feedback.log(Logged("outside", "acme", "token-classification", "acme/ner@v1", TEXT, NER))
    for start, end in ((0, len(TEXT) + 1), (4, 4), (5, 4)):
        entities = [{"start": start, "end": end, "label": "PER"}]
        status, body = rate(running, "acme-key", request_id="outside", rating="down", correction=entities)
        assert status == 400
        assert f"{start} to {end}" in body["error"]["message"]


def test_feedback_is_exported_as_the_recipes_read_it(
    logged: tuple[Running, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, file = logged
    everybody = "mail ada@example.org in London"
    place = {"start": everybody.index("London"), "end": len(everybody), "label": "LOC"}
    said: list[tuple[str, str, str, Any, dict[str, Any]]] = [
        ("n1", "token-classification", TEXT, NER, {"rating": "up"}),
        ("n2", "token-classification", TEXT, NER, {"rating": "down"}),
        ("n3", "token-classification", everybody, [], {"rating": "down", "correction": [place]}),
        ("n4", "token-classification", "Nobody is here", NER, {"rating": "down", "correction": []}),
        ("c1", "text-classification", "a fine film", CLASSES, {"rating": 0.5}),
        ("c2", "text-classification", 'dull, "long"', CLASSES, {"rating": "down", "correction": "bad"}),
        ("c3", "text-classification", "so so", CLASSES, {"rating": "down"}),
    ]
    for id, kind, text, output, rating in said:
        adapter = "acme/ner@v1" if id[0] == "n" else "acme/mood@v1"
        running.serving.feedback.log(Logged(id, "acme", kind, adapter, text, output))
        assert rate(running, "acme-key", request_id=id, **rating)[0] == 200
    monkeypatch.setenv("ADAPTHUB_HOME", str(file.parent))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(adapt, ["feedback", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    report = run("export", "--task", "ner", "--out", "ner.jsonl", "--json")
    assert json.loads(report) == {"path": "ner.jsonl", "examples": 3}
    examples = find_recipe("ner").read(tmp_path / "ner.jsonl").examples
    assert [(one.fields["tokens"], one.fields["labels"]) for one in examples] == [
        (["Ada", "met", "Bob", "in", "London"], ["B-PER", "O", "O", "O", "B-LOC"]),
        (["mail", "xxx", "@", "xxxxxxx", ".", "xxx", "in", "London"], [*"OOOOOOO", "B-LOC"]),
        (["Nobody", "is", "here"], ["O", "O", "O"]),
    ]
    for name in ("mood.jsonl", "mood.csv"):
        run("export", "--task", "sentiment", "--out", name, "--adapter", "acme/mood")
        read = find_recipe("sentiment").read(tmp_path / name).examples
        assert [(one.fields["text"], one.fields["label"]) for one in read] == [
            ("a fine film", "good"),
            ('dull, "long"', "bad"),
        ]
    listed = json.loads(run("list", "--adapter", "acme/ner@v1", "--json"))
    assert [(one["request_id"], one["rating"], one["input"]) for one in listed] == [
        ("n1", 1.0, TEXT),
        ("n2", -1.0, TEXT),
        ("n3", -1.0, "mail xxx@xxxxxxx.xxx in London"),
        ("n4", -1.0, "Nobody is here"),
    ]


def test_answers_of_tasks_are_logged_and_rated_by_the_id_in_their_header(
    encoder: Running, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path))
    settings = settings_for(tiny_base, request_log=Redaction())
    with live(settings, encoder.serving.hub) as running:
        for name, text in (("acme/ner", "ada met bob"), ("acme/mood", "a fine film")):
            body = json.dumps({"inputs": text}).encode()
            headers = {"Content-Type": "application/json"}
            with urlopen(Request(f"{running.address}/models/{name}", body, headers)) as response:
                found, id = json.load(response), response.headers["X-Request-Id"]
            assert rate(running, None, request_id=id, rating="up")[1]["kept"] == "everything"
            one = FeedbackStore(tmp_path / "feedback.sqlite").all()[-1]
            assert one.request is not None
            assert (one.request.input, one.request.adapter) == (text, f"{name}@v1")
            assert one.request.output == (found if name == "acme/ner" else found[0])
        tasks = ("token-classification", "text-classification")
        kept = FeedbackStore(tmp_path / "feedback.sqlite").all()
        assert [len(examples(kept, task)) for task in tasks] == [1, 1]


def test_many_threads_may_be_the_first_to_use_a_store(tmp_path: Path) -> None:
    for attempt in range(4):
        store = FeedbackStore(tmp_path / str(attempt) / "feedback.sqlite")
        begin = threading.Barrier(8)

        def write(number: int, store: FeedbackStore = store, begin: threading.Barrier = begin) -> None:
            begin.wait()
            store.log(Logged(str(number), "acme", "chat", "", "a", ["b"]))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(write, range(8)))
        assert all(store.request(str(number)) for number in range(8))


def test_a_locked_log_keeps_no_answer_from_its_client(logged: tuple[Running, Path]) -> None:
    running, file = logged
    logged_as(file, answer_of(running, "acme-key")[0].rpartition("-")[2])
    store = FeedbackStore(file)
    with locked(file):
        ids = [answer_of(running, "acme-key")[0].rpartition("-")[2] for _ in range(3)]
        assert [store.request(id) for id in ids] == [None] * 3
    for id in ids:
        logged_as(file, id)


def test_more_than_a_log_takes_is_dropped_and_said(
    made: tuple[FeedbackLog, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log, file = made
    monkeypatch.setattr("adapthub.runtime.server.feedback_log._WAITING", 2)
    log.log(Logged("0", "acme", "chat", "", "a", ["b"]))
    logged_as(file, "0")
    eventually(lambda: not log._waiting, "the first is not written")
    with locked(file):
        for number in range(1, 6):
            log.log(Logged(str(number), "acme", "chat", "", "a", ["b"]))
    log.close()
    kept = [FeedbackStore(file).request(str(number)) is not None for number in range(6)]
    assert kept == [True] * 3 + [False] * 3
    assert [record.message for record in caplog.records] == [
        "requests are not logged: 2 wait to be written already",
        "3 requests were not logged: too many waited to be written",
    ]


def test_a_long_text_is_cut_before_it_is_masked(made: tuple[FeedbackLog, Path]) -> None:
    log, file = made
    entities = [
        {"entity_group": "PER", "word": "a", "start": start, "end": start + 1} for start in (0, 100_000)
    ]
    log.log(Logged("1", "acme", "token-classification", "", "a" * 100_001, entities))
    log.log(Logged("2", "acme", "chat", "", "a", ["b" * 100_001]))
    assert (logged_as(file, "1").input, logged_as(file, "1").output) == ("a" * 100_000, entities[:1])
    assert logged_as(file, "2").output == ["b" * 100_000]


def test_words_of_an_answer_are_masked_as_they_are_in_the_text(made: tuple[FeedbackLog, Path]) -> None:
    log, file = made
    text = "pay ada.lovelace@example.com with 4111 1111 1111 1111 Ada"
    spans = {"ada.lovelace": (4, 16), "4111 1111": (34, 43), "Ada": (54, 57)}
    entities = [
        {"entity_group": "PER", "word": text[start:end], "start": start, "end": end}
        for start, end in spans.values()
    ]
    log.log(Logged("1", "acme", "token-classification", "", text, entities))
    words = [entity["word"] for entity in logged_as(file, "1").output]
    assert words == ["xxx.xxxxxxxx", "0000 0000", "Ada"]


def test_labels_of_a_correction_stay_where_they_are_the_adapters(made: tuple[FeedbackLog, Path]) -> None:
    log, file = made
    own, foreign = "ada@adapter.example.org", "bob@example.org"
    log.log(Logged("1", "acme", "token-classification", "", TEXT, [], (own,)))
    log.log(Logged("2", "acme", "text-classification", "", TEXT, [], (own,)))
    labels = [{"start": 0, "end": 3, "label": label} for label in (own, foreign, "NEW")]
    for id, correction in (("1", labels), ("2", own)):
        asyncio.run(log.rate(Rating(id, "acme", -1, correction), lambda *_: None))
    first, second = (one.rating.correction for one in FeedbackStore(file).all())
    assert [one["label"] for one in first] == [own, "xxx@xxxxxxx.xxx", "NEW"]
    assert second == own
    asyncio.run(log.rate(Rating("2", "acme", -1, foreign), lambda *_: None))
    assert FeedbackStore(file).all()[-1].rating.correction == "xxx@xxxxxxx.xxx"


def test_the_requests_of_one_tenant_push_out_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.runtime.server.feedback_log._REMEMBERED", 2)
    log = FeedbackLog(FeedbackStore(tmp_path / "feedback.sqlite"))
    for id, tenant in (("z", "zeta"), ("1", "acme"), ("2", "acme"), ("3", "acme")):
        log.observe(ended(id, tenant))
    for id, tenant in (("z", "zeta"), ("2", "acme"), ("3", "acme")):
        asyncio.run(log.rate(Rating(id, tenant, 1), lambda *_: None))
    with pytest.raises(NotFound):
        asyncio.run(log.rate(Rating("1", "acme", 1), lambda *_: None))
    log.close()


def ended(id: str, tenant: str) -> Observation:
    target = Target("base", None, "")
    return Observation(id, "chat", tenant, target, "stop", Usage(1, 0, 1), 0.0, None, None, 0.0)

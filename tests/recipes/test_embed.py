"""The recipe embed: pairs and triplets, its loss against its definition, retrieval metrics, and a run that is served."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from sklearn.metrics import ndcg_score
from transformers import AutoModel

from adapthub.adapters.artifact import write_artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidData, InvalidInput, InvalidSettings
from adapthub.hub import open_hub
from adapthub.recipes import evaluate, plan, retrieval, train
from adapthub.recipes.embed import Embed
from adapthub.recipes.retrieval import retrieval_statistics
from adapthub.runtime import Passage, Runtime
from tests.recipes.tokenizer_kinds import wordpiece

EMBED = Embed()
ROWS = [
    {"query": "bob is ada", "passage": "ada works at acme", "negative": "bob met alice"},
    {"query": "the film", "passage": "a dull story", "negative": ""},
    {"query": "bob is ada", "passage": "ada was born in london"},
]


def test_pairs_triplets_and_prefixes_become_texts(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    data = EMBED.read(ROWS, query_prefix="the ", passage_prefix="a ", temperature=0.1)
    assert dict(data[1].fields) == {"query": "the film", "passage": "a dull story"}
    settings = EMBED.resolve(tokenizer, data, max_length=7)
    assert settings == {"query_prefix": "the ", "passage_prefix": "a ", "temperature": 0.1, "max_length": 7}
    encoded = EMBED.encode(tokenizer, data, (), settings)
    texts = [
        [tokenizer.decode(text["input_ids"], skip_special_tokens=True) for text in row["texts"]]
        for row in encoded.rows
    ]
    assert texts == [
        ["the bob is ada", "a ada works at acme", "a bob met alice"],
        ["the the film", "a a dull story"],
        ["the bob is ada", "a ada was born in"],  # cut
    ]
    assert encoded.truncated == 1
    assert encoded.rows.lengths == [6 + 7 + 6, 5 + 6, 6 + 7]  # type: ignore[attr-defined]
    batch = EMBED.collator(tokenizer)([dict(row) for row in encoded.rows])
    assert batch["input_ids"].shape == (7, 7)
    assert batch["labels"].tolist() == [0, 1, 2]
    first = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]
    assert first == [
        texts[0][0],
        texts[1][0],
        texts[2][0],
        texts[0][1],
        texts[1][1],
        texts[2][1],
        texts[0][2],
    ]


def test_lists_of_passages_and_negatives_are_pairs() -> None:
    """As FlagEmbedding's rows have them."""
    rows = [
        {"query": "a", "pos": ["b", "c"], "neg": ["x", "y", "z"], "pos_scores": [1, 1], "prompt": "find"},
        {"query": "d", "pos": ["e"], "neg": [], "pos_scores": [1], "prompt": "find"},
        {"query": "f", "pos": ["g", "h"], "neg": ["v"], "pos_scores": [1, 1], "prompt": "find"},
        {"query": "i", "pos": ["j"], "neg": ["u", "w"], "pos_scores": [1], "prompt": "find"},
    ]
    data = EMBED.read(rows)
    assert [tuple(example.fields.values()) for example in data] == [
        ("a", "b", "x"),
        ("a", "c", "y"),
        ("d", "e"),
        ("f", "g", "v"),
        ("f", "h", "v"),
        ("i", "j", "u"),
    ]
    assert [example.line for example in data] == [1, 1, 2, 3, 3, 4]
    assert data.notes == (
        "2 negatives of 2 rows are not read, as a pair has one; the first are at data:row 1",
        "the column 'pos_scores' is not read",
        "the column 'prompt' is not read",
    )
    [only] = EMBED.read([{"query": "a", "passage": "b", "negatives": ["x"]}], negative_column="negatives")
    assert only.fields["negative"] == "x"
    for wrong, message in (
        ({"query": "a", "pos": [], "neg": ["x"]}, "row 1: the passage in column 'pos' is empty"),
        ({"query": "a", "pos": ["b", 3]}, "row 1: the passage in column 'pos' is int, not text"),
        ({"query": "a", "pos": ["b"], "neg": ["b"]}, "row 1: the negative is the passage itself"),
    ):
        with pytest.raises(InvalidData, match=message):
            EMBED.read([wrong])


def test_the_loss_is_its_definition_and_the_right_are_no_negatives() -> None:
    torch.manual_seed(0)
    rows, size, hidden = 4, 3, 5
    outputs = torch.randn(2 * rows + 1, size, hidden)
    mask = torch.ones(2 * rows + 1, size, dtype=torch.long)
    mask[1, 2] = mask[5, 1:] = 0
    ids = torch.arange((2 * rows + 1) * size).view(-1, size) + 1
    ids[2] = ids[0]  # rows 0 and 2 ask the same, so the passage of each is right for both
    ids[rows + 3] = ids[rows + 1]  # rows 1 and 3 have the same passage
    mask[rows + 3] = mask[rows + 1]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows)}
    ours = EMBED.loss(outputs, batch, {"temperature": 0.2})
    pooled = [outputs[at][mask[at].bool()].mean(0) for at in range(2 * rows + 1)]
    losses = []
    for query in range(rows):
        skipped = {0: {2}, 1: {3}, 2: {0}, 3: {1}}[query]
        scores = {
            candidate: torch.cosine_similarity(pooled[query], pooled[rows + candidate], dim=0) / 0.2
            for candidate in range(rows + 1)
            if candidate not in skipped
        }
        losses.append(-torch.log_softmax(torch.stack(list(scores.values())), 0)[list(scores).index(query)])
    assert ours == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_retrieval_agrees_with_scikit_learn_and_by_hand() -> None:
    draw = np.random.default_rng(0)
    queries, passages = draw.normal(size=(30, 6)), draw.normal(size=(40, 6))
    relevant = [sorted(draw.choice(40, size=draw.integers(1, 4), replace=False)) for _ in range(30)]
    values = retrieval_statistics(queries, passages, relevant).values()
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (queries, passages)]
    scores = unit[0] @ unit[1].T
    truth = np.zeros((30, 40))
    for row, places in enumerate(relevant):
        truth[row, places] = 1
    assert values["ndcg@10"] == pytest.approx(ndcg_score(truth, scores, k=10))
    order = np.argsort(-scores, axis=1)[:, :10]
    hits = np.take_along_axis(truth, order, axis=1)
    reciprocal = [1 / (1 + row.argmax()) if row.any() else 0 for row in hits]
    assert values["mrr@10"] == pytest.approx(np.mean(reciprocal))
    assert values["recall@10"] == pytest.approx(np.mean(hits.sum(1) / truth.sum(1)))
    assert values["recall@1"] == pytest.approx(np.mean(hits[:, 0] / truth.sum(1)))
    many = retrieval_statistics(
        queries[:1], passages, [range(1, 40)]
    ).values()  # no more than ten can be seen
    assert many["ndcg@10"] == pytest.approx(ndcg_score(np.array([[0, *[1] * 39]]), scores[:1], k=10))
    same = retrieval_statistics(np.ones((2, 3)), np.ones((20, 3)), [[0], [1]]).values()
    assert set(same.values()) == {0.0}
    nothing = retrieval_statistics(np.zeros((1, 3)), np.ones((20, 3)), [[0]]).values()
    assert set(nothing.values()) == {0.0}


def test_queries_are_measured_alike_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    queries, passages = draw.normal(size=(20, 6)), draw.normal(size=(40, 6))
    relevant = [[row, 39 - row] for row in range(20)]
    at_once = retrieval_statistics(queries, passages, relevant)
    monkeypatch.setattr(retrieval, "_BLOCK", 7)
    in_blocks = retrieval_statistics(queries, passages, relevant)
    assert in_blocks.values() == pytest.approx(at_once.values())
    assert in_blocks.n == 20


def test_columns_are_found_in_letters_of_any_case() -> None:
    data = EMBED.read([{name.title(): text for name, text in row.items()} for row in ROWS])
    assert [example.fields for example in data] == [example.fields for example in EMBED.read(ROWS)]


def test_every_passage_of_a_query_is_right_and_each_text_stands_once() -> None:
    data = EMBED.read(ROWS)
    ada, film = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    vectors = [np.stack([ada, ada, film]), np.stack([film, film]), np.stack([ada, ada])]
    values = EMBED.measure_vectors(vectors, data).values()
    assert values["recall@10"] == 1
    # "bob is ada" stands twice and counts once; the negative is as near to "the film" as its passage
    assert values["recall@1"] == pytest.approx((0.5 + 0) / 2)


def test_an_interval_is_of_queries_however_many_rows_each_has() -> None:
    """Rows of one query are found or not found together: resampled one by one they would seem to tell more."""
    rows = [
        {"query": f"q{query}", "passage": f"p{query}", "negative": f"n{query}-{at}"}
        for query in range(4)
        for at in range(25)
    ]
    ways = np.eye(8)
    vectors = [
        np.stack([ways[query], ways[query if query % 2 else query + 4], ways[query + 4]])
        for query in range(4)
        for _ in range(25)
    ]
    found = EMBED.measure_vectors(vectors, EMBED.read(rows)).estimates()["recall@1"]
    assert (found.value, found.n) == (0.5, 4)
    assert (found.low, found.high) == (0, 1)


def test_a_negative_that_is_right_in_another_row_is_named() -> None:
    EMBED.check(EMBED.read(ROWS), ())
    rows = [{"query": "a", "passage": "c", "negative": ""}, {"query": "a", "passage": "b", "negative": "c"}]
    with pytest.raises(InvalidData, match="data:row 2: the negative is the passage of another row"):
        EMBED.check(EMBED.read(rows), ())


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"query": "a", "passage": " "}], {}, "data:row 1: the passage in column 'passage' is empty"),
        ([{"query": "a"}], {}, "no passage column"),
        (
            [{"query": "a", "passage": "b", "negative": "b"}],
            {},
            "data:row 1: the negative is the passage itself",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_named(rows: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        EMBED.read(rows, **options)


def test_pairs_that_do_not_belong_together_are_not_learnt_as_if_they_did() -> None:
    """As in files of paraphrases, where the names of the texts are those of pairs."""
    rows = [
        {"sentence1": "a", "sentence2": "b", "label": 1},
        {"sentence1": "a", "sentence2": "c", "label": 0},
    ]
    with pytest.raises(InvalidData, match="data:row 2: 'label' is 0.*Keep the rows of those that do"):
        EMBED.read(rows)
    with pytest.raises(InvalidData, match="data:row 2: 'label' is 0"):
        EMBED.read([{**row, "label": f"{row['label']}.0"} for row in rows])
    with pytest.raises(InvalidData, match="data:row 2: 'score' is 0"):
        EMBED.read([{**row, "label": "film", "score": row["label"]} for row in rows])
    classes = [{**row, "label": f"{'' if row['label'] else 'not_'}equivalent"} for row in rows]  # GLUE's
    with pytest.raises(InvalidData, match="data:row 2: 'label' is not_equivalent, as of texts"):
        EMBED.read(classes)
    assert not EMBED.read(rows[:1]).notes
    assert not EMBED.read(
        [{**row, "label": topic} for row, topic in zip(rows, ("film", "0"), strict=True)]
    ).notes
    scored = [{"query": "a", "passage": "b", "score": 0.9}, {"query": "a", "passage": "c", "score": 0.1}]
    assert EMBED.read(scored).notes == (
        "the column 'score' is not read: every row is learnt as a pair that belongs together",
    )


def test_a_negative_of_spaces_is_none() -> None:
    assert "negative" not in EMBED.read([{"query": "a", "passage": "b", "negative": "  "}])[0].fields
    with pytest.raises(
        InvalidData, match=r"the negative in column 'negative' is dict, not text\. Give one text"
    ):
        EMBED.read([{"query": "a", "passage": "b", "negative": {"text": "c"}}])


def test_what_teaches_nothing_is_refused() -> None:
    with pytest.raises(InvalidData, match="every row has the same passage"):
        EMBED.labels(EMBED.read([{"query": "a", "passage": "b"}, {"query": "c", "passage": "b"}]))
    with pytest.raises(InvalidSettings, match="temperature is a number above 0, not 0"):
        EMBED.read(ROWS, temperature=0)


def pairs(rows: int, seed: int) -> list[dict[str, str]]:
    """A person and a place, which ask for and answer each other in other words."""
    draw = random.Random(seed)
    words = {
        "ada": "london",
        "bob": "paris",
        "alice": "berlin",
        "film": "story",
        "good": "great",
        "bad": "awful",
    }
    made = []
    for _ in range(rows):
        asked = sorted(draw.sample(sorted(words), 2))
        made.append({"query": " ".join(asked), "passage": f"the {words[asked[0]]} is {words[asked[1]]}"})
    return made


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_from_pairs_to_vectors_that_are_served_and_pefts(
    method: str, tiny_base: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "max_steps": 120, "temperature": 0.2, "batch_size": 16, "learning_rate": 5e-3, "max_length": 16,
        "query_prefix": "she visited ", "passage_prefix": "a ",
    }  # fmt: skip
    test, hub = pairs(25, 2), open_hub(tmp_path / "hub")
    result = train(
        "embed", pairs(200, 0), base=str(tiny_base), validation=pairs(30, 1), test=test, method=method, name="acme/search",
        hub=hub, push=True, alias="prod", output=tmp_path / "run", quiet=True, **settings,
    )  # fmt: skip
    artifact = hub.pull("acme/search@prod")
    manifest = artifact.manifest
    assert manifest is not None
    assert (manifest.task, manifest.recipe, manifest.labels) == ("feature-extraction", "embed", None)
    assert manifest.hyperparameters["query_prefix"] == "she visited "
    assert artifact.config["task_type"] == "FEATURE_EXTRACTION"
    again = evaluate(artifact, test, query_prefix="she visited ", passage_prefix="a ")
    assert again.metrics == result.metrics["test"]
    if method == "lora":
        assert result.metrics["test"]["mrr@10"].low > 0.5

    texts = [row["query"] for row in test[:4]]
    with Runtime(load_base(str(tiny_base)), hub=hub) as runtime:
        served = runtime.logits([*texts, *map(Passage, texts)], "acme/search@prod")
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_base), str(artifact.path)).eval()
    tokenizer = wordpiece(tmp_path / "tokenizer")
    for text, ours in zip(
        [*("she visited " + t for t in texts), *("a " + t for t in texts)], served, strict=True
    ):
        with torch.inference_mode():
            theirs = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


def pooling_base(base: Path, folder: Path, mode: str) -> Path:
    """The same base as sentence-transformers would have written it."""
    shutil.copytree(base, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    return folder


@pytest.mark.parametrize(("mode", "pooling"), [("cls_token", "cls"), ("lasttoken", "lasttoken")])
def test_vectors_are_pooled_as_the_base_says_in_training_measures_and_serving(
    mode: str, pooling: str, tiny_base: Path, tmp_path: Path
) -> None:
    base, test = pooling_base(tiny_base, tmp_path / "base", mode), pairs(12, 2)
    notes: list[str] = []
    result = train(
        "embed", pairs(40, 0), base=str(base), validation=pairs(12, 1), test=test, output=tmp_path / "run",
        max_steps=3, batch_size=8, max_length=16, report=notes.append, quiet=True,
    )  # fmt: skip
    assert f"pooling: {pooling} of {base}'s hidden states, as its sentence-transformers files say" in notes
    manifest = result.artifact.manifest
    assert manifest is not None
    assert manifest.hyperparameters["pooling"] == pooling
    assert evaluate(result.artifact, test).metrics == result.metrics["test"]

    def expected(model: Any, text: str) -> torch.Tensor:
        """As sentence-transformers computes it, of plain PEFT's model."""
        with torch.inference_mode():
            hidden = model(**wordpiece(tmp_path / "tokenizer")(text, return_tensors="pt")).last_hidden_state[
                0
            ]
        return torch.nn.functional.normalize(hidden[0 if pooling == "cls" else -1], dim=0)

    bare = AutoModel.from_pretrained(tiny_base).eval()
    with Runtime(load_base(str(base))) as runtime:
        (own,) = runtime.predict(["ada bob"], str(result.artifact.path))
        (plain,) = runtime.predict(["ada bob"])
    torch.testing.assert_close(plain.vector, expected(bare, "ada bob"), atol=1e-5, rtol=1e-4)
    adapted = PeftModel.from_pretrained(bare, str(result.artifact.path)).eval()
    torch.testing.assert_close(own.vector, expected(adapted, "ada bob"), atol=1e-5, rtol=1e-4)

    more = plan("embed", pairs(40, 0), start=str(result.artifact.path), base=str(base), max_steps=1)
    assert more.settings["pooling"] == pooling
    # One from before it was recorded was trained with the mean, and so it goes on.
    unsaid = {name: value for name, value in manifest.hyperparameters.items() if name != "pooling"}
    write_artifact(
        tmp_path / "older", manifest=manifest.model_copy(update={"hyperparameters": unsaid}), card="card\n",
        config=result.artifact.config, tensors=result.artifact.tensors(),
    )  # fmt: skip
    older = plan("embed", pairs(40, 0), start=str(tmp_path / "older"), base=str(base), max_steps=1)
    assert older.settings["pooling"] == "mean"


def test_what_is_not_said_is_the_mean_and_what_is_not_computed_is_refused(
    tiny_base: Path, tmp_path: Path
) -> None:
    planned = plan("embed", pairs(40, 0), base=str(tiny_base))
    assert planned.settings["pooling"] == "mean"
    assert (
        f"pooling: mean of {tiny_base}'s hidden states, because its files say nothing else" in planned.notes
    )
    asked = plan("embed", pairs(40, 0), base=str(tiny_base), pooling="cls")
    assert asked.settings["pooling"] == "cls"
    assert not any(note.startswith("pooling") for note in asked.notes)
    base = pooling_base(tiny_base, tmp_path / "base", "max_tokens")
    with pytest.raises(
        InvalidSettings, match="pools hidden states by max, which is not computed here. Set pooling=mean"
    ):
        plan("embed", pairs(40, 0), base=str(base))
    with Runtime(load_base(str(base))) as runtime:
        (found,) = runtime.predict(["ada bob"])
    with pytest.raises(InvalidInput, match="hidden states by max, which is not computed here"):
        _ = found.vector
    with pytest.raises(InvalidSettings, match="pooling is one of mean, cls, lasttoken; 'max' is not"):
        plan("embed", pairs(40, 0), base=str(tiny_base), pooling="max")


def test_no_module_and_no_setting_of_a_base_is_left_out_in_silence(tiny_base: Path, tmp_path: Path) -> None:
    dense = pooling_base(tiny_base, tmp_path / "dense", "mean_tokens")
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    (dense / "modules.json").write_text(json.dumps([*modules, {"path": "2_Dense", "type": "x.Dense"}]))
    with pytest.raises(InvalidSettings, match=r"by mean and Dense \(2_Dense\), which is not computed here"):
        plan("embed", pairs(40, 0), base=str(dense))
    assert plan("embed", pairs(40, 0), base=str(dense), pooling="mean").settings["pooling"] == "mean"

    apart = pooling_base(tiny_base, tmp_path / "apart", "mean_tokens")
    said = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    (apart / "1_Pooling" / "config.json").write_text(json.dumps(said))
    assert plan("embed", pairs(40, 0), base=str(apart)).settings["pooling"] == "mean"
    with pytest.raises(
        InvalidSettings, match=r"leaves prompts out .*and query_prefix is given. Set pooling=mean"
    ):
        plan("embed", pairs(40, 0), base=str(apart), query_prefix="query: ")
    planned = plan("embed", pairs(40, 0), base=str(apart), query_prefix="query: ", pooling="mean")
    assert planned.settings["query_prefix"] == "query: "


@pytest.mark.parametrize("what", [plan, train])
def test_batches_of_one_row_are_refused_where_a_row_has_no_negative(what: Any) -> None:
    triplets = [{**row, "negative": f"not {at}"} for at, row in enumerate(pairs(40, 0))]
    for rows in (pairs(40, 0), [*triplets[:39], {**triplets[39], "negative": ""}]):
        with pytest.raises(
            InvalidSettings, match=r"batch_size is 1, and data:row \d+ has no negative"
        ) as caught:
            what("embed", rows, base="nowhere/at-all", batch_size=1)
        assert caught.value.hint == "Set batch_size to at least 2, or give every row a negative."


def test_of_larger_batches_no_row_is_looked_at() -> None:
    """They may be millions, in a file."""
    unread: Any = map(pytest.fail, ["a row was read"])
    EMBED.check_batch(2, unread)


def test_triplets_may_come_one_at_a_time(tiny_base: Path) -> None:
    triplets = [{**row, "negative": f"not {at}"} for at, row in enumerate(pairs(40, 0))]
    assert plan("embed", triplets, base=str(tiny_base), batch_size=1).settings["batch_size"] == 1


def test_a_plan_needs_no_head(tiny_base: Path) -> None:
    planned = plan("embed", pairs(40, 0), base=str(tiny_base))
    assert planned.labels == ()
    assert "head_learning_rate" not in planned.settings
    assert {row[1] for row in planned.samples[0].rows} == {"", "query", "passage"}

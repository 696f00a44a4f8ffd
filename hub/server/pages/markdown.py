"""Cards as HTML: Markdown and the HTML in it, from strangers, down to text, tables, links and the repository's own images.

Nothing that runs, nothing that is fetched from elsewhere, no identifier that the page uses. Reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from posixpath import normpath
from urllib.parse import unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from adapthub.hub.cards import card_body
from adapthub.hub.server.pages import links

MOST_CHARACTERS = 64 * 1024
"""What is rendered of a card, in about a second at the worst."""

_PREFIX = "card-"
_DEMOTED = 2  # the page itself has the headings above
_TAGS = set(nh3.ALLOWED_TAGS) - {"area", "article", "aside", "footer", "header", "map", "nav"}
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_ATTRIBUTES = {
    **{tag: set(names) - {"align", "char", "charoff"} for tag, names in nh3.ALLOWED_ATTRIBUTES.items()},
    "img": {"src", "alt", "width", "height"},
    "details": {"open"},
    **{heading: {"id"} for heading in _HEADINGS},
}
_SCHEMES = {"http", "https", "mailto"}
_PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def card_html(card: str, name: str, revision: str) -> Markup:
    """The card of the adapter `name` at `revision`, safe to put into a page. What is too long is cut, and says so."""
    body = card_body(card)
    tokens = _PARSER.parse(body[:MOST_CHARACTERS])
    _outline(tokens)
    dirty = str(_PARSER.renderer.render(tokens, _PARSER.options, {}))
    if len(body) > MOST_CHARACTERS:
        dirty += "<p><em>The card goes on: its file has all of it.</em></p>"
    return Markup(
        nh3.clean(
            dirty,
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            url_schemes=_SCHEMES,
            attribute_filter=_Addresses(name, revision).filter,
            link_rel="noopener noreferrer nofollow",
        )
    )


class _Addresses:
    """Where the card's addresses lead, in the repository that it is in."""

    def __init__(self, name: str, revision: str) -> None:
        self._name = name
        self._revision = revision

    def filter(self, tag: str, attribute: str, value: str) -> str | None:
        """The attribute's value in the page; None where it has none."""
        if attribute == "id":
            return _PREFIX + value
        if (tag, attribute) == ("a", "href"):
            return self._link(value)
        if (tag, attribute) == ("img", "src"):
            return self._image(value)
        return None if attribute in ("href", "src", "cite") else value

    def _link(self, address: str) -> str | None:
        if address.startswith("#"):
            return f"#{_PREFIX}{address[1:]}"
        if _scheme(address) in _SCHEMES:
            return address
        path = _path(address)
        return None if path is None else links.file(self._name, self._revision, path)

    def _image(self, address: str) -> str | None:
        """Images from elsewhere would tell their server who reads the card: they are left as their words."""
        path = _path(address)
        return None if path is None else links.raw(self._name, self._revision, path)


def _scheme(address: str) -> str | None:
    """The scheme of an address, "" where it has none; None for one that does not read."""
    try:
        return urlsplit(address).scheme
    except ValueError:
        return None


def _path(address: str) -> str | None:
    """The file of the repository that a relative address names."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith(("/", "\\")):
        return None
    path = normpath(unquote(parts.path))
    return None if path.startswith(("..", "/")) or path == "." else path


def _outline(tokens: Sequence[Token]) -> None:
    """Headings that a link can lead to, below the page's own."""
    for at, token in enumerate(tokens):
        if token.type not in ("heading_open", "heading_close"):
            continue
        if token.type == "heading_open":
            slug = re.sub(r"[^\w-]+", "-", tokens[at + 1].content.lower()).strip("-")
            token.attrSet("id", slug)
        token.tag = f"h{min(6, int(token.tag[1]) + _DEMOTED)}"

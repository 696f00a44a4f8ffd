"""Templates to answers: what every page has, how values read, and headers that let a page load nothing from elsewhere.

Everything that is printed is text, escaped; a template that misses a value fails. Asks nothing of the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adapthub.hub.access import Caller
from adapthub.hub.server.pages import links
from adapthub.hub.server.pages.assets import VERSION

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers hide from the sign-in form that it was sent from here.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "private, no-cache",
    "Vary": "Cookie, Accept",
}
# What turns the direction of the text after it, which would then not read as it is.
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069\u0000-\u0008\u000b-\u001f]")
_LONG_HEX = re.compile(r"(?:sha256:)?(?:[0-9a-f]{40}|[0-9a-f]{64})")
_UNITS = ("kB", "MB", "GB", "TB")


def page(
    request: Request,
    template: str,
    visitor: Caller | None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """The page that `template` makes of `values`, for `visitor`; None where nobody knows who that is."""
    text = _ENVIRONMENT.get_template(template).render(
        values, visitor=visitor, here=_here(request), static=VERSION
    )
    # What JSON may hold and UTF-8 may not, in a name of a tensor, say, becomes a question mark.
    return HTMLResponse(text.encode(errors="replace"), status, {**HEADERS, **(headers or {})})


def size_text(count: int) -> str:
    """Bytes for a person: "84.1 MB", by powers of 1000."""
    value, unit = float(count), "B"
    for larger in _UNITS:
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def number_text(value: float | None) -> str:
    """A measured number in four digits; a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def time_text(when: datetime) -> Markup:
    """A time in UTC, to the minute, which machines can read too."""
    return Markup('<time datetime="{}">{}</time>').format(
        when.isoformat(timespec="seconds"), when.strftime("%Y-%m-%d %H:%M")
    )


def digest_text(digest: str) -> str:
    """The beginning of a digest, as much as people compare."""
    return digest.removeprefix("sha256:")[:12]


def value_text(value: Any) -> str:
    """A value of a JSON document, or its beginning; a dash where there is none."""
    if value is None:
        return "–"
    return short_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 1000)


def detail_text(value: Any) -> str:
    """A value of an entry of the audit log, in few characters: of a digest or a commit its beginning."""
    text = value_text(value)
    return digest_text(text) if _LONG_HEX.fullmatch(text) else short_text(text, 300)


def short_text(text: str, most: int = 200) -> str:
    """At most so many characters of a text that strangers may have made as long as they like."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plain(value: Any) -> Any:
    """A text without characters that drive how what follows is shown."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _DIRECTIONS.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _here(request: Request) -> str:
    """The address of this page on this server, to come back to."""
    query = request.url.query
    return request.url.path + (f"?{query}" if query else "")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=plain,
    )
    environment.filters |= {
        "size": size_text,
        "number": number_text,
        "time": time_text,
        "digest": digest_text,
        "value": value_text,
        "detail": detail_text,
        "short": short_text,
    }
    environment.globals["links"] = links
    return environment


_ENVIRONMENT = _environment()

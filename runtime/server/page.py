"""The web page at `/`: static files of this package, read once, with headers that let them load nothing from elsewhere.

Answers without a key, since the files hold nothing of the server's; what they ask for needs one (page_api).
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

from adapthub.web.page_files import media_type, read_files

router = APIRouter(include_in_schema=False)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}
_FILES = read_files(files("adapthub.runtime.server") / "pages")


@router.api_route("/", methods=["GET", "HEAD"])
async def index() -> Response:
    """The page."""
    return _response("index.html")


@router.api_route("/pages/{name}", methods=["GET", "HEAD"])
async def file(name: str) -> Response:
    """What the page is made of."""
    return _response(name) if name in _FILES else Response(status_code=404)


def _response(name: str) -> Response:
    return Response(_FILES[name], media_type=media_type(name), headers=_HEADERS)

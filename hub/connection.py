"""One hub by HTTP: requests with a token that only its own origin gets, patience, and answers as errors of ours.

Follows redirects. A token is sent to the hub's origin and to nowhere else, whatever a redirect, a `Link` or an upload's
address says. Does not know what is asked for: `own_hub` and `plain_hub` do.
"""

from __future__ import annotations

import random
import re
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from adapthub.adapters import errors
from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    AdmissionError,
    Conflict,
    EntryNotFound,
    Forbidden,
    InvalidInput,
    InvalidSettings,
    NotFound,
    RateLimited,
    RevisionNotFound,
    StorageError,
    Unauthorized,
    Unreachable,
)

if TYPE_CHECKING:
    import ssl

    import httpx2
    from pydantic import TypeAdapter

T = TypeVar("T")
_ATTEMPTS = 4
_AGAIN = (408, 429, 500, 502, 503, 504)
_FIRST_WAIT = 0.25  # seconds, doubled each time
_LONGEST_WAIT = 30.0  # that a hub may ask for; what is longer is the caller's decision
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_CONNECTIONS = 16
MOST_BYTES = 128 * 2**20
"""Of an answer that is read whole; files are streamed."""
_LONGEST_TEXT = 2000  # characters of a hub's words that are shown
_SPENT = re.compile(r";\s*r=0\s*;\s*t=(\d{1,6})\b", re.ASCII)  # nothing is left, and for how many seconds
_CODES: Mapping[str, type[AdaptHubError]] = {
    "RepoNotFound": AdapterNotFound,
    "RevisionNotFound": RevisionNotFound,
    "EntryNotFound": EntryNotFound,
    "GatedRepo": Forbidden,
}
_STATUSES: Mapping[int, type[AdaptHubError]] = {
    400: InvalidSettings,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: AdmissionError,
    422: AdmissionError,
}


class Connection:
    """Kept-alive connections to the hub at `url`, for any number of threads.

    `transport`: what sends requests, where it is not the network. `offline`: refuse every request, for the reason that it
    gives. Raises InvalidSettings for what is no address; every method raises the errors of `error_of`, and Unreachable.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
        offline: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx2

        origin_of(url)
        self.url = url.rstrip("/")
        self.token = token
        self._offline = offline
        self._sleep = sleep
        self._client = httpx2.Client(
            transport=transport,
            verify=_certificates(),
            follow_redirects=False,
            timeout=httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=_CONNECTIONS),
            headers={"user-agent": "adapthub"},
        )
        weakref.finalize(self, self._client.close)

    def read(self, kind: type[T], where: str, method: str = "GET", **options: Any) -> T:
        """The JSON of an answer, as a value of `kind` (pydantic). Raises StorageError where it is none."""
        return value_of(self.ask(method, where, **options), kind)

    def ask(self, method: str, where: str, *, once: bool = False, **options: Any) -> httpx2.Response:
        """The whole answer to a request for `where`, a path of the hub or a URL; `once`: it is not sent again where it may
        have been heard. Raises StorageError for one of more than `MOST_BYTES`."""
        response = self._send(method, where, options, whole=True, once=once)
        response.close()
        return response

    @contextmanager
    def stream(self, method: str, where: str, **options: Any) -> Iterator[httpx2.Response]:
        """Within: the answer to a request, whose body is read piece by piece. Raises Unreachable where it is cut off."""
        import httpx2

        response = self._send(method, where, options, whole=False)
        try:
            yield response
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def _send(
        self, method: str, where: str, options: Mapping[str, Any], *, whole: bool, once: bool = False
    ) -> httpx2.Response:
        """The answer, with its body if `whole`, once there is one that is no reason to try again."""
        import httpx2

        if self._offline is not None:
            raise Unreachable(f"{self.url} is not asked: {self._offline}")
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            try:
                url = self.url + where if where.startswith("/") else where
                response = self._send_once(method, url, dict(options))
                if whole or response.is_error:
                    response = _whole(response)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.InvalidURL) as error:
                raise self._unreachable(error) from error  # nobody is there: no use in asking again
            except httpx2.TransportError as error:
                if last or once:
                    raise self._unreachable(error) from error
                wait = _backoff(attempt)
            else:
                if response.is_success or response.status_code == 304:
                    return response
                response.close()
                wait = _wait_of(response, attempt)
                heard = once and response.status_code != 429
                if response.status_code not in _AGAIN or last or heard or wait > _LONGEST_WAIT:
                    raise error_of(response, self.url)
            self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _send_once(self, method: str, url: str, options: dict[str, Any]) -> httpx2.Response:
        """The answer to one request, and to those that it redirects to: only what reads is sent to another address."""
        headers = dict(options.pop("headers", {}))
        for _ in range(self._client.max_redirects):
            own = {"authorization": f"Bearer {self.token}"} if self.token and self.is_own(url) else {}
            request = self._client.build_request(method, url, headers={**headers, **own}, **options)
            response = self._client.send(request, stream=True)
            if not response.has_redirect_location:
                return response
            response.close()
            url = urljoin(url, response.headers["location"])
            options.pop("params", None)  # the new address has its own
            if method not in ("GET", "HEAD"):
                raise StorageError(f"{self.url} sends what is written to {url}", hint="Use that address.")
        raise StorageError(f"{self.url} redirects without an end", hint="Ask whoever runs the hub.")

    def is_own(self, url: str) -> bool:
        """Whether a URL is of the hub's origin: scheme, host and port."""
        return origin_of(url) == origin_of(self.url)

    def _unreachable(self, error: Exception) -> Unreachable:
        import httpx2

        slow = isinstance(error, httpx2.TimeoutException)
        what = (
            "does not answer in time" if slow else f"cannot be reached: {str(error) or type(error).__name__}"
        )
        return Unreachable(
            f"the hub at {self.url} {what}",
            hint="Check the address and the network; what was pulled before still works.",
        )


@cache
def _certificates() -> ssl.SSLContext:
    """Those that are trusted; they are many, and read once."""
    import httpx2

    return httpx2.create_ssl_context()


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL. Raises InvalidSettings for what is no address by HTTP."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise InvalidSettings(f"{url!r} is no address of a hub: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSettings(
            f"{url!r} is no address of a hub", hint="Write http://host:port or https://host."
        )
    return parts.scheme, parts.hostname.lower(), port


def value_of(response: httpx2.Response, kind: type[T]) -> T:
    """The JSON in an answer as a value of `kind`. Raises StorageError where it is none."""
    from pydantic import ValidationError

    try:
        value: T = _reader(cast(Any, kind)).validate_json(response.content)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"what {response.url} answers is not what this version of AdaptHub understands:"
            f" {where + ': ' if where else ''}{first['msg']}",
            hint="Check the hub's address; if it is right, update AdaptHub here or there.",
        ) from error


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _whole(response: httpx2.Response) -> httpx2.Response:
    """`response` with its body, which is bounded also once it is unpacked."""
    import httpx2

    pieces: list[bytes] = []
    size = 0
    try:
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BYTES:
                raise StorageError(
                    f"{response.url} answers with more than {MOST_BYTES:,} bytes",
                    hint="Check the hub's address.",
                )
    finally:
        response.close()
    packed = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in packed]
    return httpx2.Response(
        response.status_code, headers=headers, content=b"".join(pieces), request=response.request
    )


def error_of(response: httpx2.Response, hub: str) -> AdaptHubError:
    """The error that an answer stands for, with the hub's own words where it has some."""
    status = response.status_code
    if (own := _own_error(response)) is not None and status not in (401, 429):
        return own
    said = _said(response)
    where = f"{hub} answered {status} to {response.request.method} {response.url.path}"
    message = said or where
    code = response.headers.get("x-error-code", "")
    if status == 429:
        return RateLimited(
            f"{hub} takes no more requests for now" + (f": {said}" if said else ""),
            retry_after=_asked_for(response) or 60.0,
            hint=f"Try again in {_asked_for(response) or 60:.0f} s.",
        )
    if status == 401 and code != "RepoNotFound":
        return Unauthorized(message, hint=f"Log in: adapt login {hub}.")
    kind = _CODES.get(code) or _STATUSES.get(status)
    if kind is AdapterNotFound and status == 401:
        return AdapterNotFound(message, hint=f"If it is private, log in: adapt login {hub}.")
    if kind is not None:
        return kind(message, hint=None if said or issubclass(kind, NotFound) else _hint(kind, hub))
    if status in (502, 503, 504):  # a proxy's words: the hub itself was not reached
        return Unreachable(f"the hub at {hub} does not answer: {message}", hint="Try again later.")
    if status >= 500:
        return StorageError(f"the hub at {hub} failed: {message}", hint="Try again later.")
    return StorageError(where + (f": {said}" if said else ""), hint="Check the hub's address.")


def _own_error(response: httpx2.Response) -> AdaptHubError | None:
    """The very error that a hub of ours raised."""
    with suppress(ValueError, AttributeError):
        body = response.json()
        kind = getattr(errors, str(body.get("kind")), None)
        if isinstance(kind, type) and issubclass(kind, AdaptHubError) and body.get("message"):
            hint = body.get("hint")
            return kind(
                str(body["message"])[:_LONGEST_TEXT], hint=None if hint is None else str(hint)[:_LONGEST_TEXT]
            )
    return None


def _hint(kind: type[AdaptHubError], hub: str) -> str | None:
    if issubclass(kind, Forbidden):
        return f"Log in with a token that may: adapt login {hub}."
    return "Change what it names." if issubclass(kind, InvalidInput) else None


def _said(response: httpx2.Response) -> str:
    with suppress(ValueError, AttributeError):
        if text := response.headers.get("x-error-message"):
            return " ".join(text.split())[:_LONGEST_TEXT]
        body = response.json()
        return " ".join(str(body.get("error") or body.get("message") or "").split())[:_LONGEST_TEXT]
    return ""


def _wait_of(response: httpx2.Response, attempt: int) -> float:
    asked = _asked_for(response)
    return _backoff(attempt) if asked is None else asked


def _asked_for(response: httpx2.Response) -> float | None:
    """The seconds that the hub asks to wait."""
    spent = _SPENT.search(response.headers.get("ratelimit", ""))
    if response.status_code == 429 and spent is not None:
        return float(spent[1])
    asked = response.headers.get("retry-after", "")
    return float(asked) if re.fullmatch("[0-9]{1,6}", asked) else None


def _backoff(attempt: int) -> float:
    return float(_FIRST_WAIT * 2**attempt * random.uniform(0.8, 1.2))

"""Where a server listens, refused by name where it cannot; and who reaches it there."""

from __future__ import annotations

import pytest

from adapthub.adapters.errors import Conflict, InvalidSettings
from adapthub.web import this_machine
from adapthub.web.listening import address_of, listener


def test_a_port_that_is_free() -> None:
    with listener("127.0.0.1", 0) as port:
        assert address_of(port) == f"http://127.0.0.1:{port.getsockname()[1]}"


def test_of_ipv6_too() -> None:
    with listener("::1", 0) as port:
        assert address_of(port) == f"http://[::1]:{port.getsockname()[1]}"


def test_a_port_that_is_taken() -> None:
    with listener("127.0.0.1", 0) as port:
        port.listen()
        number = port.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {number} of 127.0.0.1 is in use"):
            listener("127.0.0.1", number)


@pytest.mark.parametrize(("host", "port"), [("not a host", 0), ("203.0.113.1", 0)])
def test_where_nobody_can_listen(host: str, port: int) -> None:
    with pytest.raises(InvalidSettings, match=f"port {port} of {host} cannot be served"):
        listener(host, port)


@pytest.mark.parametrize(
    ("host", "private"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_who_reaches_it(host: str, private: bool) -> None:
    assert this_machine.is_private(host) == private


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.8.8.8", "[::1]:8000"])
def test_every_name_of_this_machine(host: str) -> None:
    assert this_machine.is_called(host)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "10.0.0.1", "[", ""])
def test_other_names(host: str) -> None:
    assert not this_machine.is_called(host)

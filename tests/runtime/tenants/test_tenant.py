"""What a tenant may be and may use; what a key is."""

from __future__ import annotations

import string
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidSettings
from adapthub.runtime.tenants.caller import LOCAL, Caller
from adapthub.runtime.tenants.keys import fits, hash_of, new_key, prefix_meant, prefix_of
from adapthub.runtime.tenants.tenant import Key, Tenant
from tests.runtime.tenants.helpers import NOW, tenant

_NAMES = st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=9).filter(
    lambda text: text not in (".", "..")
)


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("acme/*", "acme/sql", True),
        ("acme/*", "acme/sql-v2.1", True),
        ("acme/sql*", "acme/sql-v2.1", True),
        ("acme/?ql", "acme/sql", True),
        ("*/tone", "zeta/tone", True),
        ("*", "zeta/own", True),
        ("acme/*", "zeta/own", False),
        ("acme/*", "ACME/sql", False),
        ("acme/*", "Acme/SQL", False),
        ("acme/sql", "acme/SQL", False),
        ("acme/*", "acme", False),
        ("acme/*", "acme/", False),
        ("acme/*", "/acme/sql", False),
        ("acme/*", "acme/../zeta", False),
        ("acme/*", "acme/..", False),
        ("acme/*", "acme/.", False),
        ("acme/*", "acme//sql", False),
        ("acme/*", "acme/x/../../zeta/own", False),
        ("acme/*", "xacme/sql", False),
        ("acme/*", "acme\\sql", False),
        ("acme/*", "acme%2Fsql", False),
        ("acme/sql", "acme/sql\n", False),
        ("acme/*", "\u0430cme/sql", False),  # a Cyrillic letter
        ("*/*", "../own", False),
    ],
)
def test_what_a_pattern_allows(pattern: str, name: str, allowed: bool) -> None:
    assert Caller("acme", ("other/x", pattern)).may_use(name) == allowed


@given(namespace=_NAMES, name=_NAMES, other=_NAMES)
def test_a_namespace_is_its_own_and_nobody_elses(namespace: str, name: str, other: str) -> None:
    caller = Caller("t", (f"{namespace}/*",))
    assert caller.may_use(f"{namespace}/{name}")
    assert caller.may_use(f"{other}/{name}") == (other == namespace)
    assert not caller.may_use(f"{namespace}/../{other}/{name}")
    assert LOCAL.may_use(f"{other}/{name}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Acme"}, "'Acme' is not a tenant's name"),
        ({"name": ""}, "lower-case letters"),
        ({"name": "a b"}, "lower-case letters"),
        ({"name": "acme\n"}, "lower-case letters"),
        ({"name": "../acme"}, "lower-case letters"),
        ({"name": "a" * 65}, "1 to 64"),
        ({"name": "other"}, "other is no tenant's name"),
        ({"allow": ()}, "Allow a pattern such as 'acme/\\*'"),
        ({"allow": ("acme",)}, "'acme/\\*'"),
        ({"allow": ("acme/*", "")}, "'' is not a pattern"),
        ({"allow": ("acme/x/y",)}, "is not a pattern"),
        ({"allow": ("acme/[a-z]",)}, "is not a pattern"),
        ({"allow": ("acme/*\n",)}, "is not a pattern"),
        ({"allow": ("a/b",) * 1001}, "1001 patterns"),
        ({"weight": 0.0}, "weight of acme is 0.0"),
        ({"weight": -1.0}, "weight of acme is -1.0"),
        ({"weight": float("nan")}, "weight of acme is nan"),
        ({"weight": float("inf")}, "weight of acme is inf"),
        ({"requests_per_minute": -1}, "requests a minute of acme is -1"),
        ({"requests_per_minute": 0}, "whole number above 0"),
        ({"tokens_per_minute": -5}, "tokens a minute of acme is -5"),
        ({"tokens_per_month": -5}, "tokens a month of acme is -5"),
        ({"tokens_per_month": 2**63}, "tokens a month of acme is"),
    ],
)
def test_a_tenant_is_valid_or_refused(fields: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"name": "acme", "allow": ("acme/*",), "created": NOW} | fields
    Tenant(**{**values, **{name: vars(tenant())[name] for name in fields}})
    with pytest.raises(InvalidSettings, match=words):
        Tenant(**values)


def test_keys_differ_and_are_recognised() -> None:
    keys = {new_key() for _ in range(500)}
    assert len(keys) == 500
    for key in keys:
        prefix = prefix_of(key)
        assert prefix is not None
        assert key.startswith(f"{prefix}_")
        assert prefix_meant(prefix) == prefix_meant(prefix.removeprefix("ah_")) == prefix_meant(key) == prefix
        assert len(key.encode()) == len(prefix) + 1 + 43  # 43 characters of base64 are 256 bits


@given(at=st.integers(0, 54), other=st.characters(exclude_categories=["Cs"]))
def test_only_the_very_key_fits(at: int, other: str) -> None:
    key = new_key()
    assert fits(key, hash_of(key))
    changed = key[:at] + other + key[at + 1 :]
    assert fits(changed, hash_of(key)) == (other == key[at])


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1"))))
def test_odd_bytes_are_no_key(text: str) -> None:
    assert prefix_of(text) is None
    assert prefix_of(new_key() + text + "x") is None


@pytest.mark.parametrize("text", ["", "ah_", "sk-abc", "ah_ABCDEFGH_" + "a" * 43, "ah_abcdefgh_" + "a" * 42])
def test_what_is_nearly_a_key_is_none(text: str) -> None:
    assert prefix_of(text) is None
    assert prefix_of(new_key() + "\n") is None


def test_a_key_works_until_it_expires_or_is_revoked() -> None:
    hour = timedelta(hours=1)
    assert Key("ah_x", "", "acme", NOW).state(NOW) == "works"
    timed = Key("ah_x", "", "acme", NOW, expires=NOW + hour)
    assert timed.state(NOW + hour - timedelta(microseconds=1)) == "works"
    assert timed.state(NOW + hour) == "expired"
    assert Key("ah_x", "", "acme", NOW, NOW + hour, revoked=NOW).state(NOW) == "revoked"

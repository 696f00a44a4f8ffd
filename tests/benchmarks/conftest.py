"""The hub's tests make databases for these too."""

from __future__ import annotations

from tests.hub.conftest import new_database

__all__ = ["new_database"]

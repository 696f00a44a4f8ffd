"""`python -m adapthub.cli`, which is how launchers of several processes start the command."""

from __future__ import annotations

from adapthub.cli.main import adapt

if __name__ == "__main__":
    adapt()

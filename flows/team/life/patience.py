"""Settings of Prefect's clients with which a server that is away for a while ends nothing: for workers, and for
whatever runs a flow. Prefect reads them when it is imported.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

__all__ = ["be_patient"]

SETTINGS = {
    # Each waits twice as long as the one before: 8 min in all, and 4 min at most until a server that is back is seen. A
    # worker gives up, and ends what it runs, after 12 such questions in a row: 2 hours.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def be_patient(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what is not set."""
    for name, value in SETTINGS.items():
        environment.setdefault(name, value)

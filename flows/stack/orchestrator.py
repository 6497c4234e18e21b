"""Prefect's server for a stack: its history in PostgreSQL, for who knows the password."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from flows.stack.asking import answers
from flows.stack.database import database_uri
from flows.stack.ground import HOST, Ground
from flows.stack.part import Part, Place

__all__ = ["api", "login", "orchestrator"]


def orchestrator(ground: Ground, base: Mapping[str, str]) -> Part:
    """The server. base: the environment that it adds its own to."""
    own = {
        "PREFECT_HOME": str(ground.folder / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_uri(ground, "prefect", "asyncpg"),
        "PREFECT_SERVER_API_AUTH_STRING": login(ground),
        "PREFECT_API_AUTH_STRING": login(ground),
        "PREFECT_API_URL": api(ground),
        "PREFECT_UI_API_URL": api(ground),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    where = ["--host", HOST, "--port", str(ground.ports["prefect"])]
    return Part(
        place=Place(ground.folder, ground.identity, "prefect"),
        command=(sys.executable, "-m", "prefect", "server", "start", *where),
        cwd=ground.folder,
        environment={**base, **own},
        answers=lambda: (
            answers(f"{api(ground)}/health") and answers(f"{api(ground)}/admin/version", login(ground))
        ),
        prepare=lambda: (ground.folder / "prefect").mkdir(exist_ok=True),
        after=("postgres",),
    )


def api(ground: Ground) -> str:
    """The address that clients are given."""
    return f"{ground.url('prefect')}/api"


def login(ground: Ground) -> str:
    """PREFECT_API_AUTH_STRING."""
    return f"team:{ground.keys['prefect']}"

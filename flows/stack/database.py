"""PostgreSQL for a stack: a cluster in its folder, on loopback, never as root; a database each for MLflow, MLflow's
accounts and Prefect.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from flows.stack.ground import HOST, Ground
from flows.stack.part import Part, Place
from flows.stack.programs import find_postgres, pick_account
from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["OWNER", "database_uri", "postgres"]

OWNER = "stack"  # the cluster's first role
DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "prefect": "prefect"}  # and whose they are
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "log_min_messages": "warning",
    "log_statement": "none",
}
DROP = Path(__file__).with_name("drop.py")


def postgres(ground: Ground) -> Part:
    """The server, over the cluster that is made where there is none."""
    data = ground.folder / "postgres"
    options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
    program = str(find_postgres() / "postgres")
    where = _data_word(data)
    return Part(
        place=Place(ground.folder, ground.identity, "postgres"),
        command=_as_account(data, [program, "-D", where, "-p", str(ground.ports["postgres"]), *options]),
        cwd=ground.folder,
        environment=_environment(),
        answers=lambda: _answers(ground),
        prepare=lambda: _prepare(ground, data),
        settle=lambda: _make_databases(ground),
    )


def database_uri(ground: Ground, database: str, driver: str) -> str:
    """Where a client finds one of the databases, with its password: for an environment, never for a command line."""
    role = DATABASES[database]
    key = ground.keys[f"postgres-{role}"]
    return f"postgresql+{driver}://{role}:{key}@{HOST}:{ground.ports['postgres']}/{database}"


def _prepare(ground: Ground, data: Path) -> None:
    """A cluster that is whole: one whose making was cut short is made anew, for nothing can be in it."""
    if (data / "PG_VERSION").is_file() and (ground.folder / "postgres.made").is_file():
        _check_version(data)
        (data / "postmaster.pid").unlink(
            missing_ok=True
        )  # no process of ours is left: it names somebody else's
        return
    if (ground.folder / "postgres.made").is_file():
        raise InputError(
            f"{data}: the database is gone; put it back, or remove {ground.folder} and begin anew"
        )
    if data.exists():
        shutil.rmtree(data)
    data.mkdir(mode=0o700)
    if account := pick_account():
        os.chown(data, account.pw_uid, account.pw_gid)
    _init(ground, data)
    (ground.folder / "postgres.made").touch()


def _init(ground: Ground, data: Path) -> None:
    line = [
        *(str(find_postgres() / "initdb"), "-D", _data_word(data), "-U", OWNER, "--auth=scram-sha-256"),
        *("--pwfile=/dev/stdin", "--encoding=UTF8", "--locale=C"),
    ]
    done = subprocess.run(
        _as_account(data, line),
        cwd=ground.folder,
        env=_environment(),
        input=f"{ground.keys['postgres']}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise InputError(
            f"{data}: no database could be made there: {scrub(said[-1]) if said else 'no reason told'}"
        )


def _check_version(data: Path) -> None:
    """What one version of PostgreSQL wrote no other reads."""
    made = (data / "PG_VERSION").read_text().strip()
    said = subprocess.run(
        [find_postgres() / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    here = said.stdout.strip().rpartition(") ")[2].split(" ")[-1] if said.returncode == 0 else ""
    found = next((word for word in said.stdout.split() if word[:1].isdigit()), here)
    if found and found.partition(".")[0] != made.partition(".")[0]:
        raise InputError(
            f"{data}: was made by PostgreSQL {made}, and here is {found}: install that version beside it, or carry it "
            "over with pg_upgrade"
        )


def _as_account(data: Path, command: Sequence[str]) -> tuple[str, ...]:
    account = pick_account()
    if account is None:
        return tuple(command)
    drop = (sys.executable, "-I", "-S", str(DROP), str(account.pw_uid), str(account.pw_gid), str(data))
    return (*drop, *command)


def _data_word(data: Path) -> str:
    return "{}" if pick_account() else str(data)


def _environment() -> dict[str, str]:
    """None of this process's: PGDATA, PGPORT and their like would be heard."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _connect(ground: Ground, database: str = "postgres") -> Any:
    import psycopg2

    return psycopg2.connect(
        host=HOST,
        port=ground.ports["postgres"],
        user=OWNER,
        password=ground.keys["postgres"],
        dbname=database,
        connect_timeout=5,
    )


def _answers(ground: Ground) -> bool:
    import psycopg2

    try:
        with closing(_connect(ground)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return True
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            raise InputError(
                f"{ground.folder}: the database knows another password than keys.json: put back the file that the "
                "stack was made with"
            ) from error
        return False


def _make_databases(ground: Ground) -> None:
    from psycopg2 import sql

    with closing(_connect(ground)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for role in sorted(set(DATABASES.values())):
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
                verb = "ALTER" if cursor.fetchone() else "CREATE"
                cursor.execute(
                    sql.SQL(f"{verb} ROLE {{}} LOGIN PASSWORD {{}}").format(
                        sql.Identifier(role), sql.Literal(ground.keys[f"postgres-{role}"])
                    )
                )
            for database, role in DATABASES.items():
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
                if not cursor.fetchone():
                    make = sql.SQL("CREATE DATABASE {} OWNER {}")
                    cursor.execute(make.format(sql.Identifier(database), sql.Identifier(role)))

"""The database file of one device: its schema, how it is opened, and what SQLite's faults mean to the owner."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from p2pagent.errors import Exit, LocalError
from p2pagent.types import PeerId

_APPLICATION_ID = 0x70327061  # "p2pa", shown by file(1)
_MIGRATIONS = (
    f"""
    PRAGMA application_id = {_APPLICATION_ID};
    CREATE TABLE receipts (
        id BLOB PRIMARY KEY NOT NULL,
        body BLOB NOT NULL,
        seller_signature BLOB NOT NULL,
        buyer_signature BLOB NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('buyer', 'seller')),
        other TEXT NOT NULL,
        price_microcredits INTEGER NOT NULL CHECK (price_microcredits >= 0),
        issued_ms INTEGER NOT NULL,
        acknowledged INTEGER NOT NULL CHECK (acknowledged IN (0, 1))
    ) STRICT;
    CREATE INDEX receipts_unacknowledged ON receipts (acknowledged) WHERE acknowledged = 0;
    CREATE INDEX receipts_by_other ON receipts (other, price_microcredits);
    CREATE TABLE entries (
        receipt_id BLOB NOT NULL REFERENCES receipts (id),
        account TEXT NOT NULL,
        amount_microcredits INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX entries_by_account ON entries (account, amount_microcredits);
    CREATE TABLE capabilities (
        key TEXT PRIMARY KEY NOT NULL CHECK (length(key) <= 1024),
        value BLOB NOT NULL CHECK (length(value) <= 65536)
    ) STRICT;
    CREATE TABLE records (body BLOB NOT NULL, signature BLOB NOT NULL) STRICT;
    CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value ANY NOT NULL) STRICT;
    """,
    """
    CREATE TABLE refunds (
        receipt_id BLOB PRIMARY KEY NOT NULL REFERENCES receipts (id),
        body BLOB NOT NULL,
        signature BLOB NOT NULL,
        acknowledged INTEGER NOT NULL CHECK (acknowledged IN (0, 1))
    ) STRICT;
    CREATE TABLE disputes (
        receipt_id BLOB PRIMARY KEY NOT NULL REFERENCES receipts (id),
        reason TEXT NOT NULL CHECK (length(reason) <= 256),
        raised_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE sheets (id BLOB PRIMARY KEY NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL) STRICT;
    CREATE TABLE explanations (receipt_id BLOB PRIMARY KEY NOT NULL, body BLOB NOT NULL) STRICT;
    """,
    """
    CREATE TABLE deliveries (
        receipt_id BLOB PRIMARY KEY NOT NULL,
        delivery BLOB NOT NULL,
        good INTEGER CHECK (good IN (0, 1)),
        rated_ms INTEGER,
        CHECK ((good IS NULL) = (rated_ms IS NULL))
    ) STRICT;
    CREATE TABLE experience (
        peer TEXT NOT NULL,
        agent TEXT NOT NULL,
        space TEXT NOT NULL,
        value BLOB NOT NULL CHECK (length(value) <= 65536),
        PRIMARY KEY (peer, agent, space)
    ) STRICT;
    """,
    """
    ALTER TABLE disputes ADD COLUMN automatic INTEGER NOT NULL DEFAULT 0 CHECK (automatic IN (0, 1));
    """,
)
"""Each brings the schema one version on; `PRAGMA user_version` counts those that have run."""

SCHEMA_VERSION = len(_MIGRATIONS)


@contextmanager
def opened(path: Path, me: PeerId) -> Iterator[sqlite3.Connection]:
    """A connection to the database of peer `me` at `path`, its schema up to date; nobody else opens it meanwhile.

    Raises:
        LocalError: another peer's, of a newer version, damaged, or another program's file.
        sqlite3.Error: what `faults` makes a LocalError of.
    """
    # The guard is a database of its own: SQLite's exclusive mode on the store itself would shut out audits too.
    guard_path = path.with_name(path.name + ".lock")
    with (
        closing(sqlite3.connect(guard_path, timeout=0, check_same_thread=False)) as guard,
        closing(sqlite3.connect(path, timeout=5, check_same_thread=False)) as connection,
    ):
        guard.execute("BEGIN EXCLUSIVE")
        version = schema_version(connection, path)
        # 3 ms per thousand receipts, once: better than balances summed up from a damaged page.
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise LocalError(f"the ledger {path} {_DAMAGED[0]} ({verdict})", _DAMAGED[1], Exit.STORE)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT")
        with connection:
            connection.execute("INSERT INTO meta VALUES ('owner', ?) ON CONFLICT (key) DO NOTHING", (me,))
        (owner,) = connection.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
        if owner != me:
            raise LocalError(
                f"the ledger {path} belongs to {owner}, and this device is now {me}",
                "restore the key that goes with it, or move the ledger away",
                Exit.STORE,
            )
        yield connection


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the schema that the file has.

    Raises:
        LocalError: of a newer version than this program knows, or another program's file.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != _APPLICATION_ID and (application or version or tables):
        raise LocalError(f"{path} is not a p2pagent ledger", "move that file away", Exit.STORE)
    if version > SCHEMA_VERSION:
        raise LocalError(
            f"the ledger {path} has schema version {version}, this program knows {SCHEMA_VERSION}",
            "install the newer p2pagent that wrote it",
            Exit.STORE,
        )
    return int(version)


_DAMAGED = ("is damaged", "restore it from a backup, or move it away to start with an empty one")
_UNREACHABLE = ("cannot be used", "check that its folder exists, is yours and can be written")
_FAULTS = {
    sqlite3.SQLITE_BUSY: ("is in use", "stop the other p2pagent daemon, or give this one a data folder of its own"),
    sqlite3.SQLITE_FULL: ("has no room left on its disk", "free some space; all that was booked before is safe"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _UNREACHABLE,
    sqlite3.SQLITE_PERM: _UNREACHABLE,
    sqlite3.SQLITE_READONLY: _UNREACHABLE,
    sqlite3.SQLITE_IOERR: _UNREACHABLE,
}
"""By primary result code. Any other code is a bug of ours and stays what it is."""


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn what the owner can mend into a `LocalError`; any other fault of SQLite is a bug of ours and stays."""
    try:
        yield
    except sqlite3.Error as error:
        fault = _FAULTS.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF)
        if fault is None:
            raise
        cause, hint = fault
        raise LocalError(f"the ledger {path} {cause} ({error})", hint, Exit.STORE) from error

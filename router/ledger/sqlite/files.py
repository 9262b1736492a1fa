"""The store's file: made whole or not at all, looked at before it is trusted."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from pathlib import Path

from router.errors import ConfigurationError, LedgerCorrupt, LedgerUnavailable
from router.ledger.sqlite.schema import ALL_TABLES, APPLICATION_ID, SCHEMA_VERSION

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "fuse.sshfs", "glusterfs", "lustre")


def prepare_file(path: str, *, create: bool) -> None:
    """See that a plausible store is at `path`, making a new one where there is nothing yet.

    An existing file is never replaced, emptied or repaired. Nor is it opened here: closing a file
    drops every lock that this process has on it, those of its SQLite connections too
    (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise ConfigurationError(
            f"ledger {path}: the folder {file.parent} does not exist; make it first"
        )
    if file.is_dir():
        raise ConfigurationError(f"ledger {path} is a folder; name a file in it")
    _refuse_network(file)
    try:
        if not file.exists():
            if not create:
                raise ConfigurationError(f"ledger {path} does not exist; check the path")
            _refuse_others_log(file)
            _publish(file)
        empty = file.stat().st_size == 0
    except OSError as error:
        raise LedgerUnavailable(path, error.strerror or str(error)) from error
    if empty:
        raise LedgerCorrupt(path, "the file is empty; if it is meant to be new, delete it first")
    if not os.access(path, os.R_OK):
        raise LedgerUnavailable(path, "Permission denied")
    _refuse_missing_log(path)


def write_schema(connection: sqlite3.Connection) -> None:
    """Make all tables in an empty database."""
    connection.executescript(
        f"BEGIN; {ALL_TABLES} PRAGMA application_id = {APPLICATION_ID};"
        f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def check_schema(connection: sqlite3.Connection, path: str) -> None:
    """Refuse the file of another program, or of another version of this library."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a SQLite file of another program; name a new file")
    if version != SCHEMA_VERSION:
        raise ConfigurationError(
            f"ledger {path} has schema version {version}, and this release knows version "
            f"{SCHEMA_VERSION}; use the release that wrote it, or name a new file"
        )


def identity(path: str) -> tuple[int, ...]:
    """The inodes of the file, its write-ahead log and that log's index, to notice that they were
    swapped in use. With two indexes, two processes overwrite each other's commits unnoticed. Of a
    file without both, which nobody writes to, what would tell that somebody did."""
    main = os.stat(path)
    try:
        log, index = os.stat(path + "-wal"), os.stat(path + "-shm")
    except FileNotFoundError:
        return main.st_dev, main.st_ino, main.st_mtime_ns, main.st_size
    return main.st_dev, main.st_ino, log.st_ino, index.st_ino


def is_frozen(path: str) -> bool:
    """Whether a store can only be read here, as a copy on a medium that is read-only: it cannot be
    written, and no write-ahead log stands beside it that would have to be read too.

    Raises `LedgerUnavailable` where such a log stands there and nothing can be made of it.
    """
    can_add = os.access(os.path.dirname(path), os.W_OK)
    if os.access(path, os.W_OK) and can_add:
        return False
    if not os.path.exists(path + "-wal"):
        return True
    if not can_add and not os.access(path + "-shm", os.R_OK):
        raise LedgerUnavailable(
            path,
            "it cannot be written here, and its write-ahead log (-wal) can only be read with an "
            "index (-shm) beside it; copy the file and its log to a folder that can be written",
        )
    return False


def _publish(file: Path) -> None:
    """Make a whole new store beside `file` and link it into place.

    So no process ever sees a half-made store, of several that begin at once exactly one wins, and
    a store that is found empty or cut short was damaged.
    """
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            write_schema(connection)
        finally:
            connection.close()
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
        _sync_folder(file.parent)
    except sqlite3.Error as error:
        raise LedgerUnavailable(str(file), f"cannot be created: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system lets a folder be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse_missing_log(path: str) -> None:
    """Refuse a store whose write-ahead log was deleted: its last transactions are lost.

    SQLite makes the log before its index ("-shm") and deletes it after, so an index alone means
    that someone took the log away. Looked at thrice, since another process may be closing.
    """
    for _ in range(3):
        if os.path.exists(path + "-wal") or not os.path.exists(path + "-shm"):
            return
        time.sleep(0.02)
    raise LedgerCorrupt(path, f"its write-ahead log {path}-wal is missing")


def _refuse_others_log(file: Path) -> None:
    """Refuse to begin a file beside the log of one that was deleted: SQLite would replay that log
    into the new file."""
    log = Path(f"{file}-wal")
    if log.exists() and not file.exists():
        raise LedgerCorrupt(
            str(file),
            f"the file is missing, and its write-ahead log {log} is not; bring the file back, or "
            "delete the log too",
        )


def _refuse_network(file: Path) -> None:
    """Refuse a network file system, whose locks and shared memory SQLite cannot rely on."""
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return  # not Linux: nothing to ask
    folder = str(file.parent.resolve())
    best, kind = "", ""
    for line in mounts:
        fields = line.split(" ")
        if len(fields) > 2:
            mount = fields[1].replace("\\040", " ")
            inside = folder == mount or folder.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, fields[2]
    if kind.startswith(_NETWORK_FILE_SYSTEMS):
        raise ConfigurationError(
            f"ledger {file} is on a network file system ({kind}), where SQLite's locks do not "
            f"hold; name a file on a local disk"
        )

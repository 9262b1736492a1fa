"""A file of lines that one process appends to, and that outlives it.

What a process could not write into the store, or has not yet, stands here. The file is locked as
long as its process lives, so that a journal without a lock is a dead process's, for anybody to
replay, once. A line is "checksum JSON"; a last line that is torn was never acknowledged.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from router.errors import LedgerCorrupt, LedgerUnavailable

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a journal's process is alive
    fcntl = None  # type: ignore[assignment]

SUPPORTED = fcntl is not None
_log = logging.getLogger("router")
_SUFFIX = ".journal"
_VERSION = 1
_STEP = 64 * 1024  # bytes by which a file grows at least


class Journal:
    """The journal of one process for one store.

    Parameters: `folder`, made (mode 0700) where it is missing; `store`, the store's name, so that
    what is meant for one store is never replayed into another.
    Raises `LedgerUnavailable` where it cannot be written.
    """

    def __init__(self, folder: Path, store: str):
        self._path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
        self._head = json.dumps(["journal", _VERSION, store, boot()])
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file, self._map, self.size = self._new([])
        except OSError as error:
            raise LedgerUnavailable(
                str(folder), f"its journal cannot be written: {error}"
            ) from None

    def append(self, line: str, *, sync: bool = False) -> None:
        """Append one line of JSON; `sync` waits until it is on the disk.

        The line is copied into the mapped file, which is the system's own copy: it outlives the
        process, and a call's way has no system call for it.
        """
        text = line.encode()
        data = b"%08x %b\n" % (zlib.crc32(text), text)
        end = self.size + len(data)
        if end > len(self._map):
            self._extend(end)
        self._map[self.size : end] = data
        self.size = end
        if sync:
            self.sync()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        try:
            self._map.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def rewrite(self, lines: Iterable[str]) -> None:
        """Put `lines` in the place of all that stands in the file."""
        old = self._file, self._map
        try:
            self._file, self._map, self.size = self._new(lines)
        except OSError as error:
            raise self._unwritable(error) from None
        old[1].close()
        os.close(old[0])

    def remove(self) -> None:
        """Delete the file: nothing of it is needed any more."""
        self._path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Close the file and leave it: to the next process, or, after a fork, to the parent."""
        if self._file >= 0:
            self._map.close()
            os.close(self._file)
        self._file = -1

    def _new(self, lines: Iterable[str]) -> tuple[int, mmap.mmap, int]:
        """A locked file with its head and `lines`, put in place when it is whole."""
        draft = self._path.with_suffix(".draft")
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            data = b"".join(_sealed(line) for line in [self._head, *lines])
            _fill(file, data + bytes(_STEP), 0)
            os.fsync(file)
            os.rename(draft, self._path)
            return file, mmap.mmap(file, len(data) + _STEP), len(data)
        except BaseException:
            os.close(file)
            draft.unlink(missing_ok=True)
            raise

    def _extend(self, end: int) -> None:
        """Make room up to `end` and beyond. Zeros are written, since a mapped page for which the
        disk has no room would kill the process."""
        old = len(self._map)
        more = max(_STEP, end - old, old)
        try:
            _fill(self._file, bytes(more), old)
            self._map.close()
            self._map = mmap.mmap(self._file, old + more)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> LedgerUnavailable:
        return LedgerUnavailable(str(self._path), f"cannot be written: {error}")


class Left:
    """The journal of a process that is gone, locked for replay by this one."""

    def __init__(self, path: Path, file: int, lines: list[Any], same_boot: bool):
        self.path, self._file, self.lines, self.same_boot = path, file, lines, same_boot

    def done(self) -> None:
        """All is in the store: delete the file."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._file)


def left_behind(folder: Path, store: str) -> Iterator[Left]:
    """The journals of processes that are gone, each locked while it is looked at.

    One that is damaged is set aside under the name *.damaged, and an error is logged: what it held
    is then charged in full, when it expires.
    """
    if fcntl is None or not folder.is_dir():
        return
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            file = os.open(path, os.O_RDWR)
        except OSError:
            continue  # replayed by another process meanwhile
        left = None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_ino == os.stat(path).st_ino:
                left = _opened(path, file, store)
        except OSError:
            pass  # its process lives, or another has replayed it
        except LedgerCorrupt as damaged:
            _log.error("%s", damaged)
            path.rename(path.with_suffix(".damaged"))
        if left is None:
            os.close(file)
            continue
        try:
            yield left
        finally:
            left.close()


def boot() -> str:
    """Which start of the machine this is; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return ""


def _opened(path: Path, file: int, store: str) -> Left | None:
    lines = read_lines(path)
    head = lines[0] if lines else None
    if not isinstance(head, list) or head[:2] != ["journal", _VERSION]:
        raise LedgerCorrupt(str(path), "it does not begin as a journal")
    if not _is_of(head[2], path.parent, store):
        return None
    return Left(path, file, lines[1:], same_boot=head[3] == boot() != "")


def _is_of(named: str, folder: Path, store: str) -> bool:
    """Whether a journal that names a store is this one's: a file and the folder beside it may have
    been moved together, or be seen under another path."""
    beside = folder == Path(f"{store}.journal")
    return named == store or (beside and Path(named).name == Path(store).name)


def read_lines(path: Path) -> list[Any]:
    """The lines of a journal; `LedgerCorrupt` for one that was changed, but a torn end is none."""
    *whole, torn = path.read_bytes().rstrip(b"\0").split(b"\n")
    if torn:
        _log.warning("journal %s ends in a torn line, which was never acknowledged", path)
    lines = []
    for number, line in enumerate(whole, 1):
        text = line[9:]
        if line[:9] != b"%08x " % zlib.crc32(text):
            raise LedgerCorrupt(str(path), f"line {number} was changed")
        lines.append(json.loads(text))
    return lines


def _fill(file: int, data: bytes, at: int) -> None:
    if os.pwrite(file, data, at) != len(data):
        os.ftruncate(file, at)
        raise OSError(errno.ENOSPC, "the disk is full")


def _sealed(line: str) -> bytes:
    text = line.encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)

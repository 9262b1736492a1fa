"""The Lua scripts, one for each step. What they share stands at the beginning of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the SHA-1 by which a server that has seen it knows it."""

    text: bytes
    sha1: str


def _load(name: str, *shared: str) -> Script:
    folder = files("router.ledger.redis") / "lua"
    text = b"\n".join((folder / f"{part}.lua").read_bytes() for part in (*shared, name))
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


ATTACH, LOST, RESTORE = _load("attach"), _load("lost"), _load("restore")
HOLD = _load("hold", "common", "account")
END = _load("end", "common", "charge")
DRAW = _load("draw", "common", "charge")
EXPIRE = _load("expire", "common", "charge")
REFUSE = _load("refuse", "common", "charge")
FINISH = _load("finish", "common")
DEFINE = _load("define", "common")
SET_LIMIT = _load("set_limit", "common")
CREDIT = _load("credit", "common", "account")
READ = _load("read", "common")
SNAPSHOT = _load("snapshot", "common")
FETCH = _load("fetch", "common")
FORGET = _load("forget", "common")
LIST = _load("list", "common")

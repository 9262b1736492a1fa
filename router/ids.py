"""Names for requests."""

from __future__ import annotations

import os


def new_request_id(now: float) -> str:
    """A UUID version 7 (RFC 9562, section 5.7): unique, and in order of time."""
    milliseconds = int(now * 1000) & (2**48 - 1)
    noise = int.from_bytes(os.urandom(10), "big")
    high, low = noise >> 62 & 0xFFF, noise & (2**62 - 1)
    value = milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

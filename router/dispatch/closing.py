"""What a stream needs so that `with` and `async with` close it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self


class Closing:
    """A stream that is closed by `close`, or on an event loop by `aclose`."""

    @abstractmethod
    def close(self) -> None:
        """Stop reading."""

    @abstractmethod
    async def aclose(self) -> None:
        """`close`, for a stream that is read with `async for`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

"""Several calls at once: replies as they come, and a hang-up on what is no longer needed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from router.dispatch.wire import Call, Reply, asend, send

_opening = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}  # of each process: a fork has no threads


@dataclass(slots=True)
class Race:
    """Calls that go out at once. `replies` and `failures`, by the call's index, are filled as they
    come, so that what came is known however the race ends; a call that was hung up on has an
    `asyncio.CancelledError`.

    `enough` is asked after each reply, in the order of their coming: once it says yes, the other
    calls are cancelled.
    """

    calls: Sequence[Call]
    enough: Callable[[int, Reply], bool]
    replies: dict[int, Reply] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)

    def run(self) -> None:
        """Run the race from a thread without an event loop of its own: on one in the background,
        where a call can be cancelled. Calls through a caller's own synchronous client run in
        threads, and are waited for."""
        if any(call.client is not None for call in self.calls):
            self._run_in_threads()
            return
        waiting = asyncio.run_coroutine_threadsafe(self.arun(), _loop())
        try:
            waiting.result()
        except BaseException:  # an interrupt: what was sent is still to be settled
            waiting.cancel()
            raise

    async def arun(self) -> None:
        """Run the race on the running event loop. A cancellation cancels every call."""
        tasks = {asyncio.ensure_future(asend(call)): at for at, call in enumerate(self.calls)}
        waiting = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if self._note({tasks[task]: task for task in done}):
                    return
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            # One that had ended just before it was cancelled is known too.
            self._note({tasks[task]: task for task in waiting})

    def _note(self, ended: dict[int, asyncio.Task[Reply]]) -> bool:
        enough = False
        for at, task in sorted(ended.items()):
            if task.cancelled():
                self.failures[at] = asyncio.CancelledError()
            elif (error := task.exception()) is not None:
                self.failures[at] = error
            else:
                self.replies[at] = task.result()
                enough = self.enough(at, self.replies[at]) or enough
        return enough

    def _run_in_threads(self) -> None:
        with ThreadPoolExecutor(len(self.calls), "router-vote") as pool:
            sent = {pool.submit(send, call): at for at, call in enumerate(self.calls)}
            for each in as_completed(sent):
                error = each.exception()
                if error is not None:
                    self.failures[sent[each]] = error
                else:
                    self.replies[sent[each]] = each.result()
                    self.enough(sent[each], self.replies[sent[each]])


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process for races, in a thread of its own."""
    with _opening:
        found = _loops.get(os.getpid())
        if found is None:
            found = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=found.run_forever, name="router-race", daemon=True).start()
        return found

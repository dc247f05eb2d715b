"""The named timers of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Timers:
    """Timers by name; starting one anew replaces it, and one that runs out forgets itself before it calls back."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: dict[str, asyncio.TimerHandle] = {}

    def start(self, name: str, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back after `seconds`."""

        def expired() -> None:
            del self._running[name]
            callback(*arguments)

        self.stop(name)
        self._running[name] = self._loop.call_later(seconds, expired)

    def stop(self, name: str) -> None:
        """Stop a timer, if it runs."""
        timer = self._running.pop(name, None)
        if timer is not None:
            timer.cancel()

    def clear(self) -> None:
        """Stop all."""
        for name in tuple(self._running):
            self.stop(name)

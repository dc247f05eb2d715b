"""Free ports and waiting for servers without sleeping blindly."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable


def free_port() -> int:
    """Return a TCP port of loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0, what: str = "condition") -> None:
    """Return as soon as `condition()` holds; raise TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        pause.wait(0.01)


def wait_for_port(port: int, *, seconds: float = 20.0) -> None:
    """Return when something accepts connections on the loopback port."""

    def accepts() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(accepts, seconds=seconds, what=f"a listener on port {port}")

"""Two stages of a pipeline on two cores: a thread works ahead of its consumer, a few pieces and no more.

Hashing, ciphers and files release the interpreter or take long per piece, so stages overlap. The content of every piece is copied
once, because producers use their buffers again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator

from securepacs.cms.stream import Buffer

_SLOT = 1 << 18  # octets: short enough that no stage waits long for the interpreter
_SLOTS = 16


def ahead(chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    """Yield the same octets, produced by another thread; its exceptions are raised here, and it ends when this iterator does."""
    free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[bytearray, int] | BaseException | None] = queue.SimpleQueue()
    for _ in range(_SLOTS):
        free.put(bytearray(_SLOT))

    def produce() -> None:
        try:
            slot, used = free.get(), 0
            for chunk in chunks:
                view = memoryview(chunk)
                while len(view) and slot is not None:
                    count = min(len(view), _SLOT - used)
                    slot[used : used + count] = view[:count]
                    view, used = view[count:], used + count
                    if used == _SLOT:
                        ready.put((slot, used))
                        slot, used = free.get(), 0
                if slot is None:
                    return
            if used and slot is not None:
                ready.put((slot, used))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=produce, name="securepacs-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            slot, used = item
            yield memoryview(slot)[:used]
            free.put(slot)
    finally:
        free.put(None)
        while thread.is_alive():  # slots given back before the mark may let it go on for a few pieces
            thread.join(0.01)

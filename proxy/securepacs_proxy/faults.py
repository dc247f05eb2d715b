"""Saying where a program failed, and never with which data: the text of an exception may hold data of a patient."""

from __future__ import annotations

from pathlib import PurePath
from types import TracebackType


def fault(error: BaseException) -> str:
    """Return the type of an exception and the line that raised it: `KeyError at worker.py:120`."""
    return f"{type(error).__name__} at {place(error.__traceback__)}"


def place(trace: TracebackType | None) -> str:
    """Return file name and line of the innermost frame, "?" when there is none."""
    if trace is None:
        return "?"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"

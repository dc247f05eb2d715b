"""How the demonstration speaks: steps, facts that were checked, and the one that did not hold."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from securepacs.errors import SecurePacsError


class StoryBroken(Exception):
    """A fact of the story did not hold in the world."""


class Telling:
    """Prints the story. `fact` is only said of what was checked just before."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def opening(self, title: str, text: str) -> None:
        """Say what will be shown."""
        self._console.print(Panel(escape(text), title=title, title_align="left", border_style="blue"))

    @contextmanager
    def step(self, letter: str, title: str) -> Iterator[None]:
        """Tell one step; an error inside becomes StoryBroken with the step's name."""
        self._console.print(f"\n[bold blue]({letter})[/] [bold]{escape(title)}[/]")
        begun = time.monotonic()
        try:
            yield
        except StoryBroken as broken:
            self._console.print(f"    [bold red]✗[/] {escape(str(broken))}")
            raise
        except (SecurePacsError, OSError) as error:
            self._console.print(f"    [bold red]✗[/] {escape(str(error))}")
            raise StoryBroken(f"step ({letter}): {error}") from error
        self._console.print(f"    [dim]{time.monotonic() - begun:.1f} s[/]")

    def fact(self, text: str) -> None:
        """Say something that was checked."""
        self._console.print(f"    [green]✓[/] {escape(text)}")

    def detail(self, text: str) -> None:
        """Say where something can be seen."""
        self._console.print(f"      [dim]{escape(text)}[/]")

    def check(self, holds: bool, text: str, otherwise: str = "") -> None:
        """Say the fact if it holds; StoryBroken if not."""
        if not holds:
            raise StoryBroken(otherwise or f"does not hold: {text}")
        self.fact(text)

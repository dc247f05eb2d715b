"""The demonstration: a hospital on loopback, with a told story in which every sentence is checked."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

from rich.console import Console

from securepacs_proxy.demo.story import Story
from securepacs_proxy.demo.telling import StoryBroken, Telling
from securepacs_proxy.demo.world import ARCHIVE_AE, MODALITY_AE, World, build, check_archive

__all__ = ["run_demo"]

_OPENING = """\
A CT in radiology, a gateway in the DMZ, an archive that knows nothing of security, a doctor with a smart card, and an auditor.
All of them run on this machine, on loopback and free ports. Each line with a tick was checked against the world."""


def run_demo(*, once: bool, pacs: str = "qrscp", console: Console | None = None) -> int:
    """Tell the story; return 0 when every step held, 1 otherwise. Without `once` the servers stay up until Ctrl-C."""
    check_archive(pacs)
    console = console or Console()
    tell = Telling(console)
    folder = Path(tempfile.mkdtemp(prefix="securepacs-demo-"))
    folder.chmod(0o700)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tell.opening("securepacs", _OPENING)
        with build(folder, pacs=pacs) as world:
            Story(world, tell).run()
            console.print("\n[bold green]Every step held.[/]")
            if not once:
                _stay(world, console)
    except StoryBroken as broken:
        console.print(f"\n[bold red]The story broke:[/] {broken}", markup=True)
        console.print(f"What happened is in {folder}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nstopped", markup=False)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _stay(world: World, console: Console) -> None:
    keys = world.folder / "keys"
    console.print(
        f"""
The servers stay up until Ctrl-C. Where to look next:

  gateway (mutual TLS)   localhost:{world.port}, called AE title {ARCHIVE_AE}
  keys and certificates  {keys}
  configuration          {world.configuration}

  storescu --enable-tls {keys}/modality.key {keys}/modality.pem --add-cert-file {keys}/root.pem \\
      -aet {MODALITY_AE} -aec {ARCHIVE_AE} localhost {world.port} YOUR.dcm
  securepacs-proxy gateway explain -c {world.configuration} --roles
  securepacs audit search --store sqlite:///{world.folder}/audit.sqlite
  securepacs verify {world.folder}/work/retrieved --trust {keys}/root.pem \\
      --intermediates {keys}/modality.pem --crl {keys}/issuing.crl --crl {keys}/root.crl
""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    signal.pause()

"""`python -m securepacs_proxy` is the command `securepacs-proxy`."""

from __future__ import annotations

from securepacs_proxy.cli import main

if __name__ == "__main__":
    main()

"""A real Chromium without a window, driven through its debugging pipe; skipped where it is not installed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import require

_DEADLINE = 60


class Tab:
    """One page of the browser (Chrome DevTools Protocol)."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._rest = b""
        self._last = 0
        self._session = ""
        self.requests: list[str] = []
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path: Path) -> None:
        """Open a file as a page and wait until it has loaded."""
        self.call("Page.navigate", url=path.as_uri())
        self.evaluate("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))")

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript, wait for a promise, and return the value."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(result["exceptionDetails"])
        return result["result"].get("value")

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in a file input, as a user does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in files])

    def drop(self, selector: str, files: Sequence[Path]) -> None:
        """Drop files or folders on an element, as from a file manager."""
        place = self.evaluate(f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                              " return [box.x + box.width / 2, box.y + box.height / 2]; })()")  # fmt: skip
        data = {"items": [], "files": [str(path) for path in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=place[0], y=place[1], data=data)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._back, 1 << 16)
            if not piece:
                raise AssertionError("Chromium ended")
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(message["params"]))
        return message


@contextmanager
def browser_tab(folder: Path) -> Iterator[Tab]:
    """Run Chromium with a profile below `folder` and give an empty page."""
    program = require("chromium")
    child_in, to = os.pipe()
    back, child_out = os.pipe()
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-extensions",
    ]
    options += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={folder / 'chromium'}"]
    # the protocol speaks on descriptors 3 and 4, whatever ours are
    shell = ["bash", "-c", f'exec "$@" 3<&{child_in} 4>&{child_out}', "chromium", program, *options]
    process = subprocess.Popen(
        shell, pass_fds=(child_in, child_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(child_in)
    os.close(child_out)
    try:
        yield Tab(to, back)
    finally:
        os.close(to)  # the end of the pipe ends the browser
        try:
            process.wait(timeout=_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(back)

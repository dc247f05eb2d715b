"""A scripted HTTP server on loopback: answers by path, misbehaves on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


class ScriptedServer:
    """Serves `routes`: path -> function that gets the handler and the request's body. Remembers what was asked."""

    def __init__(self, routes: dict[str, Answer], *, port: int = 0) -> None:
        asked: list[tuple[str, str, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                asked.append((self.command, self.path, body))
                routes[self.path](self, body)

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: object) -> None:
                """Keep the output of the tests clean."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that hang up are what some tests are about."""

        self.asked = asked
        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def body(content: bytes, *, status: int = 200, length: int | None = None, headers: dict[str, str] | None = None) -> Answer:
    """Answer with `content`, claiming `length` bytes (the true length unless given, none when negative)."""

    def answer(handler: BaseHTTPRequestHandler, request: bytes) -> None:
        handler.send_response(status)
        claimed = len(content) if length is None else length
        if claimed >= 0:
            handler.send_header("Content-Length", str(claimed))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    """Answer with a redirect."""
    return body(b"", status=status, headers={"Location": location})

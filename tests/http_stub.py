"""A server on this machine that says what a test wants: slow, busy, broken or dear."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# (number of the request, its body) -> (status, headers, text or object)
Reply = Callable[[int, dict[str, Any]], tuple[int, Mapping[str, str], object]]


class StubServer(ThreadingHTTPServer):
    """Keeps what it was asked, and how many requests ran at once."""

    def __init__(self, reply: Reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.requests, self.paths = reply, [], []
        # by number of the request: writes its answer itself
        self.raw: dict[int, Callable[[Handler], None]] = {}
        self.lock, self.busy, self.most = threading.Lock(), 0, 0

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """Answers POST."""

    server: StubServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
            number = len(self.server.requests)
            self.server.requests.append(body)
            self.server.paths.append(self.path)
        if number in self.server.raw:
            self.server.raw[number](self)
            with self.server.lock:
                self.server.busy -= 1
            return
        status, headers, said = self.server.reply(number, body)
        with self.server.lock:
            self.server.busy -= 1
        data = (said if isinstance(said, str) else json.dumps(said)).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def completion(text: object, finish: str = "stop", **more: object) -> dict[str, object]:
    """A chat completion."""
    return {
        "choices": [{"message": {"content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2},
        **more,
    }


@contextmanager
def serving(reply: Reply) -> Iterator[StubServer]:
    """A running server."""
    server = StubServer(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

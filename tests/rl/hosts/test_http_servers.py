"""Grading over HTTP: a real server, its client, and what neither may be made to do."""

import http.client
import http.server
import threading
import time

import pytest

from rl.feedback.language import Limits, Settings
from rl.feedback.pool import Pool
from rl.feedback.problems import Problem
from rl.hosts.http_servers import TOKEN_VARIABLE, HttpServer
from rl.hosts.open_grader import open_grader
from rl.hosts.remote import HostLostError
from rl.sandbox.__main__ import main
from rl.sandbox.worker import SandboxError

uvicorn = pytest.importorskip("uvicorn")

from rl.hosts.grading_server import ServerRules, grading_app  # noqa: E402 (starlette comes with uvicorn)

DOUBLE = Problem("double", "", inputs=["3\n", "21\n"], outputs=["6\n", "42\n"])
RIGHT = "print(2 * int(input()))"
SETTINGS = Settings(Limits(time_s=2.0))


@pytest.fixture(scope="module")
def address():
    most = Limits(time_s=3.0, memory_bytes=1 << 30, output_bytes=64 << 20)
    with Pool(1, packages=()) as pool:
        config = uvicorn.Config(
            grading_app(pool, 1, ServerRules("secret", most, ())), port=0, log_level="error"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")


@pytest.mark.usefixtures("token")
def test_verdicts_are_those_of_a_pool_here(address):
    programs = [RIGHT, "print(6)", "print(", "1 / 0", "import os; os._exit(0)"]
    with (
        open_grader([address], 1, SETTINGS, packages=()) as there,
        Pool(1, SETTINGS.limits, packages=()) as here,
    ):
        far = there.grade_many([(DOUBLE, program) for program in programs])
        near = here.grade_many([(DOUBLE, program) for program in programs])
    assert [(f.verdict, f.reward, f.executed) for f in far] == [
        (f.verdict, f.reward, f.executed) for f in near
    ]
    assert [f.verdict for f in far][:3] == ["pass", "fail", "compile_error"]


@pytest.mark.usefixtures("token")
def test_a_server_bounds_what_it_is_asked_for(address):
    greedy = Settings(Limits(time_s=60.0))
    with open_grader([address], 1, greedy, packages=()) as there:
        with pytest.raises(ValueError, match=r"the limit time_s may be 3.0 on this server; got 60.0"):
            there.grade(DOUBLE, RIGHT)
        with pytest.raises(ValueError, match="the problem has no tests"):
            there.grade(Problem("p", ""), RIGHT)
    with pytest.raises(SandboxError, match="lets programs import no packages, not numpy"):
        open_grader([address], 1, SETTINGS, packages=("numpy",))


def test_a_token_is_needed_and_checked(address, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(SandboxError, match=TOKEN_VARIABLE):
        open_grader([address], 1, SETTINGS)
    monkeypatch.setenv(TOKEN_VARIABLE, "guess")
    with pytest.raises(SandboxError, match="refuses the token"):
        open_grader([address], 1, SETTINGS)
    host, port = address.removeprefix("http://").split(":")
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer secret\u00e9"}):
        connection = http.client.HTTPConnection(host, int(port))
        connection.request("POST", "/grade", b"{}", headers)
        assert connection.getresponse().status == 401
        connection.close()


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("where", ["grader:8010", "ftp://x", "http://", "http://x/path"])
def test_other_addresses_are_refused(where):
    with pytest.raises(SandboxError, match="http://HOST:PORT"):
        open_grader([where], 1, SETTINGS)


@pytest.mark.usefixtures("token")
def test_nobody_there_is_said():
    with pytest.raises(SandboxError, match=r"no host grades programs: http://127.0.0.1:9 is lost"):
        open_grader(["http://127.0.0.1:9"], 1, SETTINGS)


@pytest.mark.usefixtures("token")
def test_a_redirect_is_not_followed_and_a_full_queue_is_waited_for():
    replies = [(302, {"Location": "http://example.org/"}), (503, {}), (503, {}), (422, {})]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = replies.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = HttpServer(f"http://127.0.0.1:{server.server_port}", ())
        with pytest.raises(HostLostError, match="replied with HTTP 302"):
            host.grade(b"{}", 5.0)
        assert host.grade(b"{}", 5.0) == b""
        assert replies == []
        server.shutdown()


def test_a_port_that_there_is_not_is_refused(capsys):
    assert main(["serve", "--port", "99999"]) == 2
    assert "error: port must lie in 0..65535; got 99999" in capsys.readouterr().err

"""A server's key is in nothing that an administration writes, prints or raises, whatever the server does."""

import json
import logging
import subprocess
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from evals.models.api_client import ApiError
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.api_respondent import ApiRespondent

ROOT = Path(__file__).parents[4]
KEY = "sk-test/+0123456789=abcdefghij"
FORMS = (KEY, quote(KEY, safe=""), KEY[:12], KEY[-12:])
GOOD = {"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
ECHO = {"choices": [{"message": {"content": f"A, and your key is {KEY}"}}]}


class Handler(BaseHTTPRequestHandler):
    """Notes the headers of every request, and answers as its server is told to."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(dict(self.headers))
        self.server.reply(self)

    do_GET = do_POST

    def say(self, status, body, **headers):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    running = []

    def start(reply, host="127.0.0.1"):
        server = ThreadingHTTPServer((host, 0), Handler)
        server.reply, server.seen = reply, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def slow(handler):
    time.sleep(0.4)
    handler.close_connection = True


def malformed(handler):
    handler.wfile.write(f"{KEY} is no status line\r\n\r\n".encode())
    handler.close_connection = True


# what a server may do, and whether the administration gets through
REPLIES = {
    "good": (lambda h: h.say(200, GOOD), True),
    "good, echoing": (lambda h: h.say(200, ECHO), True),
    "401": (lambda h: h.say(401, {"error": "no such key"}), False),
    "401, echoing": (lambda h: h.say(401, {"error": f"Incorrect API key provided: {KEY}"}), False),
    "401, echoing at the cut": (lambda h: h.say(401, "x" * 270 + KEY), False),
    "401, echoing an address": (lambda h: h.say(401, f"/login?key={quote(KEY, safe='')}"), False),
    "500, echoing": (lambda h: h.say(500, f"Traceback ... {h.headers['Authorization']}"), False),
    "malformed JSON, echoing": (lambda h: h.say(200, f"<html>{KEY}"), False),
    "no completion, echoing": (lambda h: h.say(200, {"text": f"Bearer {KEY}"}), False),
    "malformed status line": (malformed, False),
    "timeout": (slow, False),
    "redirect, echoing": (lambda h: h.say(302, KEY, Location=f"/v2?key={KEY}"), False),
}


def respondent(server, **settings):
    settings = {"attempts": 2, "give_up_after": 2, "timeout_s": 0.2, "sleep": lambda _: None} | settings
    return ApiRespondent(f"http://127.0.0.1:{server.server_port}/v1", "m", **settings)


def assert_hidden(text):
    for form in FORMS:
        assert form not in text


@pytest.mark.parametrize("case", REPLIES)
def test_the_key_is_in_no_file_no_word_and_no_error(case, serve, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    reply, through = REPLIES[case]
    server = serve(reply)
    who = respondent(server)
    said = ""
    try:
        administer(who, battery(load_instrument("gad_7")), Design(), tmp_path)
    except ApiError as error:
        said = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)
        assert not through
    else:
        assert through
    assert server.seen[0]["Authorization"] == f"Bearer {KEY}"
    out = capfd.readouterr()
    for text in (said, repr(who), out.out, out.err, caplog.text):
        assert_hidden(text)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_hidden(path.read_bytes().decode("latin-1"))
    if case == "good, echoing":
        assert "your key is [key]" in (tmp_path / "answers.jsonl").read_text()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_its_host_is_named(status, serve, monkeypatch):
    """urllib follows 301 to 303 as GET, with every header."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    other = serve(lambda h: h.say(200, GOOD), host="127.0.0.2")
    where = f"http://127.0.0.2:{other.server_port}/v1/chat/completions?user={KEY}"
    server = serve(lambda h: h.say(status, "moved", Location=where))
    # where all are sent on, as by a wrong address, the run ends
    with pytest.raises(ApiError, match=r"redirects to 127\.0\.0\.2; the key is not sent there") as caught:
        respondent(server, concurrency=1).write(["Hello", "Goodbye", "Well"])
    assert_hidden(str(caught.value))
    assert not other.seen
    # as many as end it, each asked once
    assert len(server.seen) == 2


@pytest.mark.parametrize("raw", [f"{KEY}\n", f"  {KEY}\r\n"])
def test_a_line_break_around_the_key_is_left_out(raw, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", raw)
    server = serve(lambda h: h.say(200, GOOD))
    assert respondent(server).write(["Hello"]) == ["A"]
    assert server.seen[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("raw", [f"{KEY}\n{KEY}", f"Bearer {KEY}", f"{KEY}…"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(raw, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", raw)
    with pytest.raises(ApiError, match="the key in OPENAI_API_KEY must be printable ASCII") as caught:
        respondent(serve(lambda h: h.say(200, GOOD))).write(["Hello"])
    assert_hidden("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY[:7]}@host/v1",
        f"https://{KEY[:7]}@host/v1",
        f"https://host/v1?key={KEY}",
        f"https://host/v1#{KEY}",
        f"user:{KEY[:7]}@host/v1",
        f"https://user:{KEY[:7]}@[host/v1",
    ],
)
def test_an_address_with_a_secret_is_refused_unseen(url):
    with pytest.raises(ValueError, match="url must hold no user, password, query or fragment") as caught:
        ApiRespondent(url, "m")
    assert "sk-test" not in "".join(traceback.format_exception(caught.value))


def test_the_key_in_place_of_its_variable_is_refused_unseen():
    with pytest.raises(ValueError, match="key_variable must name an environment variable") as caught:
        ApiRespondent("http://host/v1", "m", key_variable=KEY)
    assert_hidden(str(caught.value))


def test_short_words_that_serve_as_keys_stay_in_answers(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    reply = {"choices": [{"message": {"content": "EMPTY"}}]}
    assert respondent(serve(lambda h: h.say(200, reply))).write(["Hello"]) == ["EMPTY"]


def test_the_command_shows_no_variables_of_a_crash(tmp_path, monkeypatch):
    """What is our own mistake ends in a traceback, which must not show local variables."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code = (
        "import evals.administer, evals.questionnaires.respondents.api_respondent as api\n"
        "def broken(self, path):\n    key = self._client.key()\n    1 / 0\n"
        "api.ApiRespondent.account = broken\n"
        "evals.administer.app()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), "--instrument", "gad_7"]
    command += ["--respondent", "http://127.0.0.1:9/v1", "--model", "m"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "ZeroDivisionError" in done.stderr
    assert_hidden(done.stdout + done.stderr)

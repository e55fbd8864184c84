"""Programs for the sandbox: attacks with the verdicts that they may get, and honest ones that look odd."""
# ruff: noqa: E501 (the attacks read best on one line)

import textwrap

from rl.feedback.pool import Limits
from rl.feedback.problems import Problem

CALL = Problem("call", "", fn_name="f", inputs=[[3], [21], [212121]], outputs=[6, 42, 424242])
STDIN = Problem("stdin", "", inputs=["3\n", "21\n", "212121\n"], outputs=["6\n", "42\n", "424242\n"])
SECRET = "s3cret-of-the-grader"
LIMITS = Limits(time_s=2.0, memory_bytes=256 << 20, output_bytes=1 << 16, timeouts=1)


FRAME = """
import os, struct
def frame(kind, number, body):
    data = memoryview(struct.pack("=IcI", len(body), kind, number) + body)
    while data: data = data[os.write(3, data):]
"""
# name: (task, verdicts that are right, program)
ATTACKS: dict[str, tuple[Problem, str, str]] = {
    "busy loop": (STDIN, "timeout", "while True: pass"),
    "sleep": (STDIN, "timeout", "import time\ntime.sleep(1000)"),
    "slow regex": (STDIN, "timeout", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"),
    "signals ignored": (
        STDIN,
        "timeout",
        """
        import signal
        for s in range(1, 65):
            try: signal.signal(s, signal.SIG_IGN)
            except Exception: pass
        while True: pass
        """,
    ),
    "exceptions swallowed": (
        CALL,
        "timeout",
        """
        def f(n):
            while True:
                try:
                    while True: pass
                except BaseException: pass
        """,
    ),
    "loop while imported": (CALL, "timeout", "while True: pass"),
    "answers, then hangs": (STDIN, "timeout", "print(int(input()) * 2, flush=True)\nwhile True: pass"),
    "hangs at exit": (
        STDIN,
        "timeout",
        "import atexit, time\natexit.register(time.sleep, 99)\nprint(int(input())*2)",
    ),
    "stops itself": (
        STDIN,
        "timeout|runtime_error",
        "import signal\nsignal.raise_signal(signal.SIGSTOP)\nraise SystemError",
    ),
    "fork": (
        STDIN,
        "runtime_error",
        "import os\nif os.fork() == 0:\n    import time; time.sleep(30)\nprint(int(input())*2)",
    ),
    "daemon": (
        STDIN,
        "runtime_error",
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(60)
            os._exit(0)
        print(int(input()) * 2)
        """,
    ),
    "vfork by number": (
        STDIN,
        "fail",
        """
        import ctypes
        libc = ctypes.CDLL(None)
        print([libc.syscall(n) for n in (57, 58)], libc.syscall(56, 17, 0, 0, 0, 0), libc.syscall(435, 0, 0))
        """,
    ),
    "threads": (
        STDIN,
        "runtime_error|timeout",
        "import threading, time\nfor _ in range(500): threading.Thread(target=time.sleep, args=(60,)).start()",
    ),
    "memory at once": (STDIN, "runtime_error", "x = bytearray(4 << 30)"),
    "memory bit by bit": (
        CALL,
        "runtime_error",
        "def f(n):\n    x = []\n    while True: x.append(bytes(1 << 20))",
    ),
    "C stack": (
        STDIN,
        "runtime_error",
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**5): x = [x]\nrepr(x)",
    ),
    "output flood": (STDIN, "output_limit", "while True: print('x' * 10000)"),
    "output flood in a call": (CALL, "output_limit", "def f(n):\n    while True: print('x' * 10000)"),
    "error flood": (STDIN, "timeout", "import sys\nwhile True: sys.stderr.write('x' * 10000)"),
    "answer too long": (CALL, "output_limit", "def f(n): return 'x' * 100000"),
    "huge number": (
        CALL,
        "fail|runtime_error",
        "import sys\nsys.set_int_max_str_digits(0)\ndef f(n): return 10**20000",
    ),
    "exits 0": (STDIN, "fail", "import sys\nsys.exit(0)"),
    "exits 1 after the answer": (STDIN, "runtime_error", "import sys\nprint(int(input())*2)\nsys.exit(1)"),
    "_exits 0 without an answer": (STDIN, "runtime_error", "import os\nos._exit(0)"),
    "_exits 0 in a call": (CALL, "runtime_error", "import os\ndef f(n): os._exit(0)"),
    "exits in a call": (CALL, "runtime_error", "def f(n): exit(0)"),
    "equal to everything": (
        CALL,
        "fail",
        "class A(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\ndef f(n): return A(0)",
    ),
    "text equal to everything": (
        CALL,
        "fail",
        "class A(str):\n    __eq__ = lambda s, o: True\ndef f(n): return A()",
    ),
    "bool for int": (CALL, "fail", "def f(n): return True"),
    "text for int": (CALL, "fail", "def f(n): return str(n * 2)"),
    "contains itself": (CALL, "fail", "def f(n):\n    x = [n]\n    x.append(x)\n    return x"),
    "deeply nested": (
        CALL,
        "fail|runtime_error",
        "def f(n):\n    x = 6\n    for _ in range(900): x = [x]\n    return x",
    ),
    "endless iterable": (
        CALL,
        "fail",
        "class L(list):\n    def __iter__(self):\n        while True: yield 1\ndef f(n): return L()",
    ),
    "patched json": (
        CALL,
        "fail|runtime_error",
        "import json\njson.dumps = lambda *a, **k: '6'\ndef f(n): return None",
    ),
    "patched builtins": (
        CALL,
        "fail|runtime_error",
        """
        import builtins
        for name in ("isinstance", "all", "any", "type", "len", "str", "repr"):
            setattr(builtins, name, lambda *a: True)
        def f(n): return None
        """,
    ),
    "hostile exception": (
        CALL,
        "runtime_error",
        """
        class M(type):
            @property
            def __name__(self): raise KeyboardInterrupt
        class E(BaseException, metaclass=M):
            def __str__(self): raise SystemExit(0)
        def f(n): raise E
        """,
    ),
    "forged frames": (
        CALL,
        "fail|runtime_error",
        FRAME
        + textwrap.dedent("""
        for kind, n, body in ((b"L", 0, b"{}"), (b"V", 0, b"6"), (b"V", 1, b"42"), (b"D", 0, b'{"exit": 0}')):
            frame(kind, n, body)
        os._exit(0)
        """),
    ),
    "frames for ever": (CALL, "runtime_error", FRAME + "while True: frame(b'L', 0, b'{}')"),
    "frames of a thread after a wrong answer": (
        CALL,
        "fail|runtime_error",
        FRAME
        + textwrap.dedent("""
        import threading, time
        def go():
            while True:
                for n in range(3): frame(b"V", n, b"6")
        def f(n):
            threading.Thread(target=go, daemon=True).start()
            time.sleep(0.1)
            return 7
        """),
    ),
    "a set of 40,000 keys that collide": (
        CALL,
        "timeout|runtime_error|output_limit",
        FRAME
        + textwrap.dedent("""
        def f(n):
            keys = [((1 << 61) - 1) * k for k in range(1, 3000)]
            frame(b"V", {3: 0, 21: 1}.get(n, 2), b'{"t": "set", "v": ' + repr(keys).encode() + b"}")
            os._exit(0)
        """),
    ),
    "an answer nested a hundred thousand deep": (
        CALL,
        "fail|runtime_error|output_limit",
        FRAME + "def f(n): frame(b'V', 0, b'[' * 30000 + b']' * 30000)",
    ),
    "a number of a million digits": (
        CALL,
        "fail|runtime_error|output_limit",
        FRAME + "def f(n): frame(b'V', 0, b'9' * 60000)",
    ),
    "an exit code nested deep": (
        STDIN,
        "fail|runtime_error",
        FRAME
        + "print(7, flush=True)\nframe(b'D', 0, b'{\"exit\": ' + b'[' * 900 + b']' * 900 + b'}')\nos._exit(1)",
    ),
    "calls that nobody makes": (CALL, "runtime_error", FRAME + "def f(n): frame(b'C', 0, b'{}')"),
    "answers of a test that is over": (
        CALL,
        "runtime_error",
        FRAME + "def f(n):\n    frame(b'V', 0, b'6')\n    frame(b'V', 0, b'6')",
    ),
    "time stretched by short sleeps": (
        STDIN,
        "timeout",
        """
        import time
        n, end = int(input()), time.monotonic() + 9
        while time.monotonic() < end:
            busy = time.perf_counter() + 0.0015
            while time.perf_counter() < busy: pass
            time.sleep(0.0125)
        print(2 * n)
        """,
    ),
    "memory between tests in its code": (
        STDIN,
        "pass",
        """
        import mmap, sys, types
        def shared(code):
            for c in code.co_consts:
                if type(c) is mmap.mmap: return c
                if type(c) is types.CodeType and shared(c): return shared(c)
        n, memory = int(input()), shared(sys._getframe().f_code)
        was = all(memory[i] for i in range(len(memory)))
        for i in range(len(memory)): memory[i] = 1
        print("I remember" if was else 2 * n)
        """,
    ),
    "memory between tests in the interpreter": (
        STDIN,
        "pass",
        """
        import builtins, sys
        n = int(input())
        was = hasattr(builtins, "seen") or "seen" in globals() or "seen" in sys.modules
        builtins.seen = seen = sys.modules["seen"] = True
        print("I remember" if was else 2 * n)
        """,
    ),
    "descriptors of the server that forked it": (
        STDIN,
        "pass",
        """
        import os, socket
        def is_open(fd):
            try: return bool(os.fstat(fd))
            except OSError: return False
        n, found = int(input()), [fd for fd in range(4, 64) if is_open(fd)]
        ours, theirs = socket.socketpair()
        os.dup2(ours.fileno(), 41)
        print(found or 2 * n)
        """,
    ),
    "an error that is no text": (
        CALL,
        "runtime_error",
        """
        E = type("E", (Exception,), {"__str__": lambda s: "\\ud800 " * 100})
        def f(n): raise E
        """,
    ),
    "an error of a megabyte, then one without end": (
        CALL,
        "runtime_error",
        """
        class L(Exception):
            def __str__(s):
                while True: pass
        def f(n): raise (type("E" * 990000, (Exception,), {})("x") if n == 3 else L())
        """,
    ),
    "a number that takes minutes to write": (
        STDIN,
        "timeout",
        "print(10 ** 5_000_000)",
    ),
    "an iterator without end": (
        CALL,
        "output_limit|timeout",
        "import itertools\ndef f(n): return map(str, itertools.count())",
    ),
    "garbage in all descriptors": (
        CALL,
        "fail|runtime_error",
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'pass ' * 20)\n    except OSError: pass\ndef f(n): return None",
    ),
    "closes all descriptors": (
        CALL,
        "runtime_error",
        "import os\ndef f(n):\n    os.closerange(0, 64)\n    return n * 2",
    ),
    "forged verdict": (STDIN, "fail", 'print(\'{"verdict": "pass"}\')'),
    "searches its memory": (
        CALL,
        "fail",
        """
        import gc, sys
        def f(n):
            wanted = n * 2  # stands for an answer that the program does not know how to compute
            for o in gc.get_objects():
                if isinstance(o, dict) and any(k in o for k in ("outputs", "expected", "asserts")): return wanted
            frame = sys._getframe()
            while frame:
                if any("expect" in k or "output" in k for k in frame.f_locals): return wanted
                frame = frame.f_back
        """,
    ),
    "reads its environment": (STDIN, "fail", "import os\nprint(dict(os.environ))"),
    "reads the grader's environment": (STDIN, "runtime_error", "print(open('/proc/@PID@/environ').read())"),
    "reads the grader's memory": (STDIN, "runtime_error", "open('/proc/@PID@/mem', 'rb')"),
    "reads its own /proc": (STDIN, "runtime_error", "open('/proc/self/maps').read()"),
    "reads a secret": (STDIN, "runtime_error", "print(open('@CANARY@').read())"),
    "lists the root": (STDIN, "runtime_error", "import os\nprint(os.listdir('/'))"),
    "reads /etc/passwd": (STDIN, "runtime_error", "print(open('/etc/passwd').read())"),
    "writes outside": (STDIN, "runtime_error", "open('@OUT@/MARKER', 'w').write('x')"),
    "writes here": (STDIN, "runtime_error", "open('SC_MARKER', 'w').write('x')"),
    "truncates by reading": (
        STDIN,
        "fail",
        "import os\ntry: os.open('@CANARY@', os.O_TRUNC)\nexcept OSError: print('no')",
    ),
    "poisons the library": (STDIN, "runtime_error", "import re\nopen(re.__file__ + '.SC_MARKER', 'w')"),
    "shared memory": (
        STDIN,
        "runtime_error",
        "from multiprocessing import shared_memory as s\ns.SharedMemory('SC_MARKER', True, 9)",
    ),
    "System V memory": (STDIN, "fail", "import ctypes\nprint(ctypes.CDLL(None).shmget(77, 4096, 0o1777))"),
    "memfd": (STDIN, "runtime_error", "import os\nos.memfd_create('x')"),
    "fills its input": (STDIN, "runtime_error", "import os\nwhile True: os.write(0, bytes(1 << 20))"),
    "changes a mode": (STDIN, "runtime_error", "import os\nos.chmod('@CANARY@', 0)"),
    "deletes": (STDIN, "runtime_error", "import os\nos.unlink('@CANARY@')"),
    "TCP": (STDIN, "runtime_error", "import socket\nsocket.create_connection(('127.0.0.1', @PORT@), 2)"),
    "UDP": (
        STDIN,
        "runtime_error",
        "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @UDP@))",
    ),
    "unix socket": (
        STDIN,
        "runtime_error",
        "import socket\nsocket.socket(socket.AF_UNIX).connect('@USOCK@')",
    ),
    "datagram pair": (STDIN, "runtime_error", "import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)"),
    "kills its parent": (STDIN, "runtime_error", "import os\nos.kill(os.getppid(), 9)"),
    "signals everyone": (STDIN, "runtime_error", "import os\nos.kill(-1, 0)"),
    "lowers its parent's limits": (
        STDIN,
        "runtime_error",
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    ),
    "signal by descriptor owner": (STDIN, "runtime_error", "import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, 1)"),
    "ptrace": (STDIN, "fail", "import ctypes, os\nprint(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0))"),
    "reads a process's memory": (
        STDIN,
        "fail",
        "import ctypes\nprint(ctypes.CDLL(None).syscall(310, 1, 0, 0, 0, 0, 0))",
    ),
    "io_uring": (STDIN, "fail", "import ctypes\nprint(ctypes.CDLL(None).syscall(425, 8, 0))"),
    "becomes root": (STDIN, "runtime_error", "import os\nos.setuid(0)\nopen('@OUT@/MARKER', 'w')"),
    "unshare and mount": (
        STDIN,
        "fail",
        "import ctypes\nl = ctypes.CDLL(None)\nprint(l.unshare(0x10020000), l.mount(b'none', b'@OUT@', b'tmpfs', 0, None))",
    ),
    "shell": (STDIN, "runtime_error", "import subprocess\nsubprocess.run('touch @OUT@/MARKER', shell=True)"),
    "exec": (STDIN, "runtime_error", "import os\nos.execv('/bin/true', ['true'])"),
    "segfault": (STDIN, "runtime_error", "import ctypes\nctypes.string_at(0)"),
    "nested parentheses": (STDIN, "compile_error", "x = " + "(" * 20000 + ")" * 20000),
    "long sum": (STDIN, "compile_error|runtime_error", "x = " + "+".join("1" * 60000)),
    "long chain of signs": (STDIN, "compile_error|runtime_error", "x = " + "-" * 100000 + "1"),
    "NUL in the source": (STDIN, "compile_error", "x = 1\0"),
    "surrogate in the source": (STDIN, "compile_error", "x = '\ud800'"),
    "surrogate in the output": (STDIN, "runtime_error", "print('\\ud800')"),
    "bytes that are no text": (STDIN, "fail", "import os\nos.write(1, b'\\xff\\xfe\\n')"),
    "the other tests' input": (STDIN, "fail", "import os, sys\nprint(sys.stdin.read(), os.read(0, 1 << 16))"),
    "public example only": (STDIN, "fail", "print(6 if int(input()) == 3 else 0)"),
}


STRETCHED = """
#include <chrono>
#include <cstdio>
#include <ctime>
using namespace std::chrono;
int main() {
    int n;
    if (scanf("%d", &n) != 1) return 1;
    auto end = steady_clock::now() + seconds(9);
    while (steady_clock::now() < end) {
        auto busy = steady_clock::now() + microseconds(1500);
        while (steady_clock::now() < busy);
        timespec rest{0, 12500000};
        nanosleep(&rest, nullptr);
    }
    printf("%d", 2 * n);
}
"""


GOOD = {
    "call": (CALL, "def f(n): return n * 2"),
    "stdin": (STDIN, "print(int(input()) * 2)"),
    "main guard": (STDIN, "if __name__ == '__main__':\n    print(int(input()) * 2)"),
    "stdin bytes": (STDIN, "import sys\nprint(int(sys.stdin.buffer.readline()) * 2)"),
    "stdin by size": (STDIN, "import os\nprint(int(os.read(0, os.fstat(0).st_size)) * 2)"),
    "stdin as a file": (STDIN, "print(int(open(0).read()) * 2)"),
    "quits": (STDIN, "print(int(input()) * 2)\nquit()"),
    "_exits after the answer": (STDIN, "import os\nprint(int(input()) * 2, flush=True)\nos._exit(0)"),
    "big stack in a thread": (
        STDIN,
        """
        import sys, threading
        sys.setrecursionlimit(10**6)
        threading.stack_size(1 << 26)
        def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
        def main():
            assert deep(20000) == 20000
            print(int(input()) * 2)
        threading.Thread(target=main).start()
        """,
    ),
    "asyncio": (
        CALL,
        "import asyncio\nasync def double(n):\n    await asyncio.sleep(0)\n    return n * 2\ndef f(n): return asyncio.run(double(n))",
    ),
    "dataclass": (
        CALL,
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\ndef f(n): return A(n).n * 2",
    ),
    "decimal": (CALL, "from decimal import Decimal\ndef f(n): return int(Decimal(n) * 2)"),
    "numpy": (CALL, "import numpy\ndef f(n): return (numpy.array([n]) * 2).tolist()[0]"),
    "prints in a call": (CALL, "def f(n):\n    print('hello')\n    return n * 2"),
    "class": (CALL, "class Solution:\n    def f(self, n): return n * 2"),
    "main guard around input": (
        CALL,
        "def f(n): return n * 2\nif __name__ == '__main__':\n    print(f(int(input())))",
    ),
    "its own names for ours": (
        CALL,
        "executed_ = values = send = []\ndef f(n):\n    executed_.append(n)\n    return n * 2",
    ),
    "2.0 for 2": (CALL, "def f(n): return n * 2.0"),
    "numpy's integers": (CALL, "import numpy as np\ndef f(n): return np.int64(n) + np.arange(2)[1] * n"),
    "an enum's member": (
        CALL,
        "import enum\nclass E(enum.IntEnum):\n    A, B, C = 6, 42, 424242\ndef f(n): return E(2 * n)",
    ),
    "a byte order mark": (CALL, "\ufeffdef f(n): return n * 2"),
    "the type of a list, not imported": (CALL, "def f(n: List[int]) -> Optional[int]: return n * 2"),
    "big numbers inside": (
        CALL,
        "def f(n): return len(str(10 ** 5000)) - 5001 + int('2' + '0' * 5000) // 10 ** 5000 * n",
    ),
    "/dev/stdin": (STDIN, "print(int(open('/dev/stdin').read()) * 2)"),
    "/dev/stdin by pathlib": (
        STDIN,
        "from pathlib import Path\nprint(int(Path('/dev/stdin').read_text()) * 2)",
    ),
    "/dev/stdin by os": (STDIN, "import os\nprint(int(os.read(os.open('/dev/stdin', os.O_RDONLY), 9)) * 2)"),
    "/dev/stdout": (STDIN, "open('/dev/stdout', 'w').write(str(int(input()) * 2))"),
    "its own file": (
        STDIN,
        "import os, sys\nassert os.path.dirname(os.path.abspath(__file__)) == '/' and sys.argv[0] == __file__\nprint(int(input()) * 2)",
    ),
    "512 MiB of stack": (
        STDIN,
        """
        import sys, threading
        sys.setrecursionlimit(10**7)
        threading.stack_size(1 << 29)
        def main(): print(2 * int(input()))
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
        assert threading.stack_size() == 1 << 29
        """,
    ),
    "stack without limit": (
        STDIN,
        """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.setrecursionlimit(10**6)
        def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
        print(2 * int(input()) + deep(20000) - 20000)
        """,
    ),
    "temporary files": (
        STDIN,
        """
        import os, tempfile
        with tempfile.TemporaryFile("w+") as t, tempfile.TemporaryFile() as b, tempfile.SpooledTemporaryFile(9) as s:
            t.write(input()); t.seek(0); b.write(b"x" * 100); s.write(b"y" * 100)
            n = int(t.read()); assert b.tell() == s.tell() == 100
        with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as t: t.write("a\\nb\\n")
        assert open(t.name).read() == "a\\nb\\n" and t.name.endswith(".txt")
        with open(t.name, "a") as again: again.write("c")
        assert [line.strip() for line in open(t.name)] == ["a", "b", "c"]
        print(2 * n)
        """,
    ),
    "fast input of a contest": (
        STDIN,
        """
        import os, sys
        from io import BytesIO, IOBase
        class FastIO(IOBase):
            newlines = 0
            def __init__(self, file):
                self._fd = file.fileno(); self.buffer = BytesIO()
                self.writable = "x" in file.mode or "r" not in file.mode
                self.write = self.buffer.write if self.writable else None
            def readline(self):
                while self.newlines == 0:
                    b = os.read(self._fd, max(os.fstat(self._fd).st_size, 8192)); self.newlines = b.count(b"\\n") + (not b)
                    ptr = self.buffer.tell(); self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(ptr)
                self.newlines -= 1
                return self.buffer.readline()
            def flush(self):
                if self.writable:
                    os.write(self._fd, self.buffer.getvalue()); self.buffer.truncate(0), self.buffer.seek(0)
        class IOWrapper(IOBase):
            def __init__(self, file):
                self.buffer = FastIO(file); self.flush = self.buffer.flush; self.writable = self.buffer.writable
                self.write = lambda s: self.buffer.write(s.encode("ascii"))
                self.readline = lambda: self.buffer.readline().decode("ascii")
        sys.stdin, sys.stdout = IOWrapper(sys.stdin), IOWrapper(sys.stdout)
        input = lambda: sys.stdin.readline().rstrip("\\r\\n")
        print(int(input()) * 2)
        """,
    ),
    "prints at exit": (
        STDIN,
        """
        import atexit, threading, time
        n, out = int(input()), []
        atexit.register(lambda: print(out[0]))
        threading.Thread(target=lambda: (time.sleep(.1), out.append(2 * n))).start()
        """,
    ),
    "a dozen modules": (
        STDIN,
        """
        import unicodedata, locale, datetime, zoneinfo, string, textwrap, calendar, statistics, secrets, uuid, hashlib, json, pickle
        größe = int(unicodedata.normalize("NFKC", input()))
        assert datetime.datetime.now(zoneinfo.ZoneInfo("Europe/Berlin")).tzinfo is not None
        assert pickle.loads(pickle.dumps({1: "ß"})) == {1: "ß"}
        print(größe * 2)
        """,
    ),
}

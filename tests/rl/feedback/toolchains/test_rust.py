"""Rust: verdicts and isolation of compiler and program."""
# ruff: noqa: E501 (the programs read best on one line)

import shutil
import subprocess

import pytest

from tests.rl.feedback.toolchains.corpus import check, grade, open_pool


def _works() -> bool:
    if shutil.which("rustc") is None or shutil.which("cc") is None:
        return False
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout > "rustc 1.9"


pytestmark = pytest.mark.skipif(not _works(), reason="needs cc and a rustc that works without /proc")

READS = "let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); let n: i64 = s.trim().parse().unwrap();"
PROGRAMS = {
    "right": ("pass", f'fn main() {{ {READS} println!("{{}}", n * 2); }}'),
    "threads": (
        "pass",
        f'fn main() {{ {READS} let t = std::thread::spawn(move || n * 2); println!("{{}}", t.join().unwrap()); }}',
    ),
    "wrong": ("fail", 'fn main() { println!("6"); }'),
    "does not compile": ("compile_error", "fn main() { x }"),
    "panics": ("runtime_error", f'fn main() {{ {READS} println!("{{}}", n * 2); panic!("x") }}'),
    "exit code": ("runtime_error", "fn main() { std::process::exit(3) }"),
    "leaves early": ("fail", "fn main() { std::process::exit(0) }"),
    "loops": ("timeout", "fn main() { loop { std::hint::black_box(1); } }"),
    "floods": ("output_limit", 'fn main() { loop { println!("xxxxxxxxxxxxxxxx"); } }'),
    "eats memory": (
        "runtime_error",
        "fn main() { let mut v = Vec::new(); loop { v.push(vec![1u8; 1 << 24]); } }",
    ),
    "reads a secret": (
        "runtime_error",
        'fn main() { println!("{}", std::fs::read_to_string("{CANARY}").unwrap()) }',
    ),
    "includes a secret": ("compile_error", 'fn main() { println!("{}", include_str!("{CANARY}")) }'),
    "compiles a secret": ("compile_error", 'include!("{CANARY}");\nfn main() {}'),
    "assembles a secret": (
        "compile_error",
        'std::arch::global_asm!(".incbin \\"{CANARY}\\"");\nfn main() {}',
    ),
    "starts a process": (
        "runtime_error",
        'fn main() { std::process::Command::new("/bin/sh").status().unwrap(); }',
    ),
    "connects": ("runtime_error", 'fn main() { std::net::TcpStream::connect("127.0.0.1:80").unwrap(); }'),
}


@pytest.fixture(scope="module")
def pool():
    with open_pool() as pool:
        yield pool


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_its_verdict_and_no_more(pool, tmp_path, name):
    check(pool, PROGRAMS, name, "rust", tmp_path)


def test_nothing_tells_what_ran_so_that_all_of_it_counts(pool, tmp_path):
    assert grade(pool, PROGRAMS["right"][1], "rust", tmp_path).executed is None


@pytest.mark.slow
def test_a_program_that_computes_without_end_while_it_is_compiled_is_stopped(pool, tmp_path):
    endless = (
        "const fn f(n: u64) -> u64 { let mut i = 0; while i < n { i += 1; } i }\nconst X: u64 = f(1 << 60);\n"
    )
    feedback = grade(pool, endless + "fn main() { std::process::exit(X as i32) }", "rust", tmp_path)
    assert feedback.verdict == "compile_error"
    assert "out of time" in feedback.message

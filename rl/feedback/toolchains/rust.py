"""Rust: one file, linked statically by a rustc that works without /proc (1.95 does, 1.63 not).

Its lines are not traced: that takes an llvm-cov from the same LLVM as rustc's, which few machines have.
"""

import functools
import os
import shutil
import subprocess

from rl.feedback.code_text import CodeText, block_comment
from rl.feedback.grammar import Grammar
from rl.feedback.toolchain import SourceNames, Steps, Toolchain

_GRAMMAR = Grammar(
    "tree_sitter_rust",
    {
        "if": ("if_expression",),
        "for": ("for_expression",),
        "while": ("while_expression", "loop_expression"),
        "match": ("match_expression",),
    },
    blocks=("source_file", "block"),
)
RUST = CodeText("Rust", ("rust", "rs", ""), block_comment, _GRAMMAR)


@functools.cache
def _root() -> str:
    """Where the toolchain is: `rustc` on the search path may be rustup's, which starts another one."""
    if shutil.which("rustc") is None:
        return ""
    asked = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, timeout=60)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _environment() -> dict[str, str]:
    """The linker by its full path: what `cc` links to is looked up in /etc, which tools do not see."""
    linker = os.path.realpath(shutil.which("cc") or "cc")
    return {"SYSROOT": _root(), "LD_LIBRARY_PATH": f"{_root()}/lib", "LINKER": linker}


_RUSTC = (
    "{SYSROOT}/bin/rustc",
    "--sysroot",
    "{SYSROOT}",
    "--edition=2021",
    "--color=never",
    "--cap-lints=allow",
    "-O",
    "-Ctarget-feature=+crt-static",
    "-Clinker={LINKER}",
)

TOOLCHAIN = Toolchain(
    RUST,
    tools=("rustc", "cc"),
    steps=Steps(
        ("{folder}/program",),
        compile=(
            *_RUSTC,
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "linker={LINKER}",
            "-o",
            "program",
            "{source}",
        ),
    ),
    names=lambda program: SourceNames("main.rs"),
    reads=lambda: (_root(),) if _root() not in ("", "/usr") else (),
    environment=_environment,
    empty="fn main() {}\n",
)

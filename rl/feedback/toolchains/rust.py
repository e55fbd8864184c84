"""Rust: one file, linked statically by rustc. Its lines are not traced: that takes the llvm-cov of rustc's own
version, which few machines have.
"""

import functools
import shutil
import subprocess

from rl.feedback.code_text import CodeText, block_comment
from rl.feedback.toolchain import SourceNames, Steps, Toolchain

RUST = CodeText("Rust", ("rust", "rs", ""), block_comment)


@functools.cache
def _root() -> str:
    """Where the toolchain lies: `rustc` on the search path may be rustup's, which starts another one."""
    if shutil.which("rustc") is None:
        return ""
    asked = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, timeout=60)
    return asked.stdout.strip() if asked.returncode == 0 else ""


_RUSTC = (
    "{SYSROOT}/bin/rustc",
    "--sysroot",
    "{SYSROOT}",
    "--edition=2021",
    "--color=never",
    "--cap-lints=allow",
)

TOOLCHAIN = Toolchain(
    RUST,
    tools=("rustc", "cc"),
    steps=Steps(
        ("{folder}/program",),
        compile=(*_RUSTC, "-O", "-C", "target-feature=+crt-static", "-o", "program", "{source}"),
    ),
    names=lambda program: SourceNames("main.rs"),
    reads=lambda: (_root(),) if _root() not in ("", "/usr") else (),
    environment=lambda: {"SYSROOT": _root(), "LD_LIBRARY_PATH": f"{_root()}/lib"},
    empty="fn main() {}\n",
)

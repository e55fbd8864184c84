"""Java: javac and the JVM of a JDK; executed lines by JaCoCo if its jars exist (Debian: libjacoco-java)."""

import glob
import os
import re
import shutil
import zipfile
from pathlib import Path

from rl.feedback.code_text import CodeText, block_comment
from rl.feedback.executed_lines import line_spans
from rl.feedback.grammar import Grammar
from rl.feedback.toolchain import SourceNames, Spans, Steps, Toolchain, Tools

_GRAMMAR = Grammar(
    "tree_sitter_java",
    {
        "if": ("if_statement",),
        "for": ("for_statement", "enhanced_for_statement"),
        "while": ("while_statement", "do_statement"),
        "try": ("try_statement", "try_with_resources_statement"),
        "match": ("switch_expression",),
        "ternary": ("ternary_expression",),
    },
    blocks=("program", "block", "constructor_body", "switch_block_statement_group"),
)
JAVA = CodeText("Java", ("java", ""), block_comment, _GRAMMAR)
_JARS = "/usr/share/java"
_AGENT = f"{_JARS}/org.jacoco.agent.jar"
_NEEDED = ("org.jacoco.core", "asm", "asm-analysis", "asm-commons", "asm-tree")
# the newest classes that JaCoCo 0.8.6, Debian 12's, can read
_RELEASE = "15"
_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?(?:\*/|$)|"{3}.*?(?:"{3}|$)|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'"""
    r"|(?P<brace>[{}])"
    r"|\bpackage\s+(?P<package>[A-Za-z_][\w.]*)\s*;"
    r"|(?P<public>\bpublic\s+(?:(?:final|abstract|strictfp|sealed)\s+)*)?"
    r"\b(?:class|record|enum|interface)\s+(?P<type>[A-Za-z_]\w*)"
    r"|(?P<main>\bstatic\s+(?:final\s+)?void\s+main\s*\()",
    re.DOTALL | re.ASCII,
)
_JAVAC = (
    "javac",
    "-J-XX:+UseSerialGC",
    "-J-XX:TieredStopAtLevel=1",
    "-J-Xshare:auto",
    "-nowarn",
    "-proc:none",
)
_COMPILE = (*_JAVAC, "-encoding", "UTF-8", "-g", "-d", "{folder}")
_JVM = (
    "java",
    "-Xmx{memory_mb}m",
    "-Xss64m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ReservedCodeCacheSize=64m",
    "-XX:CompressedClassSpaceSize=64m",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Dfile.encoding=UTF-8",
)
_JAVA_AGENT = "-javaagent:{scratch}/jacocoagent.jar=destfile={record},append=false"
_READER = """
import java.io.*;
import org.jacoco.core.analysis.*;
import org.jacoco.core.tools.ExecFileLoader;

public class Reader {
  public static void main(String[] arguments) throws IOException {
    ExecFileLoader loader = new ExecFileLoader();
    try (InputStream records = new FileInputStream("records")) { loader.load(records); }
    CoverageBuilder found = new CoverageBuilder();
    new Analyzer(loader.getExecutionDataStore(), found).analyzeAll(new File("classes"));
    for (ISourceFileCoverage file : found.getSourceFiles())
      for (int line = file.getFirstLine(); line >= 0 && line <= file.getLastLine(); line++) {
        ICounter instructions = file.getLine(line).getInstructionCounter();
        if (instructions.getTotalCount() > 0) System.out.println(line + " " + instructions.getCoveredCount());
      }
  }
}
"""


def source_names(program: str) -> SourceNames:
    """A public class names its file; the class to run is the outermost one that has `main`.

    Args:
      program: one source file; it need not parse.
    Returns: Main.java and Main if the program does not tell.

    >>> source_names("package a; class B { class C {} static void main(String[] x) {} } public class D {}")
    SourceNames(source='D.java', main='a.B')
    """
    depth, outermost = 0, ""
    package = public = runs = ""
    for token in _TOKEN.finditer(program):
        if token["brace"]:
            depth += 1 if token["brace"] == "{" else -1
        elif token["package"]:
            package = f"{token['package']}."
        elif token["type"] and depth == 0:
            outermost = token["type"]
            public = outermost if token["public"] and not public else public
        elif token["main"] and not runs:
            runs = outermost
    name = runs or public or outermost or "Main"
    return SourceNames(f"{public or name}.java", package + name)


def _java_home() -> tuple[str, ...]:
    """The JDK's folder, with the settings that Debian keeps elsewhere."""
    javac = shutil.which("javac")
    if javac is None:
        return ()
    return (os.path.dirname(os.path.dirname(os.path.realpath(javac))), *glob.glob("/etc/java-*-openjdk"))


def _environment() -> dict[str, str]:
    """The launcher looks for its library next to itself by way of /proc, which is not there."""
    home = _java_home()
    return {"LD_LIBRARY_PATH": f"{home[0]}/lib"} if home else {}


class JacocoCoverage:
    """Lines in which JaCoCo saw an instruction run (`rl.feedback.toolchain.Coverage`).

    Its marks are at the ends of pieces of code, so it does not know how far a piece got that an exception
    left.
    """

    knows_failures = False
    steps = Steps(
        (*_JVM, _JAVA_AGENT, "-cp", "{folder}/classes", "{main}"),
        compile=(*_COMPILE[:-1], "{folder}/classes", "--release", _RELEASE, "{source}"),
    )

    def missing(self) -> str:
        """The jars that are missing."""
        lacking = [name for name in (_AGENT, *_class_path()) if not os.path.exists(name)]
        return f"JaCoCo's jars are not all in {_JARS}: install libjacoco-java" if lacking else ""

    def reads(self) -> tuple[str, ...]:
        """The jars that read what JaCoCo wrote."""
        return _class_path()

    def prepare(self, scratch: Path) -> None:
        """Takes JaCoCo's agent out of the jar that holds it."""
        with zipfile.ZipFile(_AGENT) as jar:
            (scratch / "jacocoagent.jar").write_bytes(jar.read("jacocoagent.jar"))

    def spans(self, program: str, names: SourceNames, records: set[bytes], tools: Tools) -> Spans | None:
        """Which characters ran (`rl.feedback.toolchain.Coverage`).

        Args:
          program: its text.
          names: not needed.
          records: JaCoCo's `exec` files.
          tools: runs what reads them.
        Returns: spans in order; None if the records cannot be read.
        """
        path = ":".join(_class_path())
        tools.write("records", b"".join(sorted(records)))
        tools.write("reader/Reader.java", _READER.encode())
        read = tools.use(*_JVM, "-cp", path, "reader/Reader.java")
        if read.status != 0:
            return None
        counts: dict[int, int] = {}
        for line in read.output.decode(errors="replace").splitlines():
            number, covered = map(int, line.split())
            counts[number] = counts.get(number, 0) + covered
        return line_spans(program, counts) if counts else None


def _class_path() -> tuple[str, ...]:
    return tuple(os.path.realpath(f"{_JARS}/{name}.jar") for name in _NEEDED)


TOOLCHAIN = Toolchain(
    JAVA,
    tools=("java", "javac"),
    steps=Steps((*_JVM, "-cp", "{folder}", "{main}"), compile=(*_COMPILE, "{source}")),
    names=source_names,
    reads=_java_home,
    environment=_environment,
    empty="class Main { public static void main(String[] arguments) {} }\n",
    address_space=5 << 30,
    start_s=1.0,
    coverage=JacocoCoverage(),
)

"""Which files an untrusted program may see: the standard library, shared libraries, named packages.

Not the whole of site-packages: an installed data set with its answers may be there.
"""

import os
import sys
import sysconfig
from typing import NamedTuple

from rl.sandbox.landlock import EXECUTE, READ_DIR, READ_FILE, REFER, TRUNCATE, WRITE_FILE

_READ = READ_FILE | READ_DIR
_LIBRARY_DIRECTORIES = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
_SITE_DIRECTORIES = ("site-packages", "dist-packages")
_DISTRIBUTION_PACKAGES = "/usr/lib/python3"  # Debian's; may hold data sets too


class ToolFiles(NamedTuple):
    """What tools and the programs that they run see besides the system's libraries.

    Attributes:
      scratch: the folder that a tool may write to, and what it runs may read.
      reads: further files and folders that both may read and execute.
      record: an existing file, the only one that a program may write to; None: it may write nothing.
    """

    scratch: str
    reads: tuple[str, ...] = ()
    record: str | None = None


class PackageFiles(NamedTuple):
    """Where the packages are that programs may import: `directory`/`entries`."""

    directory: str
    entries: tuple[str, ...]


def standard_library() -> str:
    """The folder of this interpreter's standard library."""
    return sysconfig.get_path("stdlib")


def find_packages(names: tuple[str, ...]) -> list[PackageFiles]:
    """The files of packages, e.g. numpy, numpy.libs, numpy-2.0.dist-info.

    Raises: ValueError for a package that is not installed.
    """
    directories = dict.fromkeys(sysconfig.get_path(key) for key in ("purelib", "platlib"))
    found = []
    for directory in directories:
        if not os.path.isdir(directory):
            continue
        wanted = tuple(
            entry
            for entry in os.listdir(directory)
            if any(entry == n or entry.startswith((f"{n}.", f"{n}-")) for n in names)
        )
        if wanted:
            found.append(PackageFiles(directory, wanted))
    seen = [entry for files in found for entry in files.entries]
    for name in names:
        if not any(entry == name or entry.startswith(f"{name}.") for entry in seen):
            raise ValueError(
                f"programs may import {name!r}, but it is not installed; install it or leave it out"
            )
    return found


def _library_grants() -> list[tuple[str, int]]:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    grants = [(f"{top}/{multiarch}", _READ) for top in ("/lib", "/usr/lib")]
    for directory in _LIBRARY_DIRECTORIES:
        if os.path.isdir(directory):
            with os.scandir(directory) as entries:
                grants += [(e.path, READ_FILE) for e in entries if ".so" in e.name]
    return [*grants, ("/etc/ld.so.cache", READ_FILE)]


def _program_grants(packages: list[PackageFiles]) -> list[tuple[str, int]]:
    """Landlock grants (path, rights) for a Python program: it may write and execute nothing."""
    library = standard_library()
    grants = [(library, READ_DIR)]
    with os.scandir(library) as entries:
        grants += [(e.path, _READ) for e in entries if e.name not in _SITE_DIRECTORIES]
    for found in packages:
        grants.append((found.directory, READ_DIR))
        grants += [(f"{found.directory}/{entry}", _READ) for entry in found.entries]
    devices = [(path, READ_FILE) for path in ("/dev/null", "/dev/urandom", "/dev/zero")]
    return [
        *grants,
        *_library_grants(),
        *devices,
        ("/usr/share/zoneinfo", _READ),
        ("/etc/localtime", READ_FILE),
    ]


def _tool_grants(files: ToolFiles) -> list[tuple[str, int]]:
    """Landlock grants for a compiler driver: it may run the tool chain and write to the scratch folder."""
    everything_but_devices = (1 << 13) - 1 | REFER | TRUNCATE
    tool_chain = [
        (p, _READ | EXECUTE)
        for p in ("/usr/bin", "/usr/lib", "/usr/libexec", "/lib", "/lib64", "/bin", *files.reads)
    ]
    headers = [
        (p, _READ) for p in ("/usr/include", "/usr/local/include", "/usr/share/locale", "/etc/ld.so.cache")
    ]
    devices = [("/dev/null", READ_FILE | WRITE_FILE), ("/dev/urandom", READ_FILE)]
    return [*tool_chain, *headers, *devices, (files.scratch, everything_but_devices)]


def _runtime_grants(files: ToolFiles) -> list[tuple[str, int]]:
    """Landlock grants for an interpreter that runs a program: it may write only the record."""
    loaders = [(path, rights | EXECUTE) for path, rights in _library_grants()]
    devices = [("/dev/null", READ_FILE | WRITE_FILE), ("/dev/urandom", READ_FILE), ("/dev/random", READ_FILE)]
    executed = [(path, _READ | EXECUTE) for path in (files.scratch, *files.reads)]
    record = [(files.record, READ_FILE | WRITE_FILE | TRUNCATE)] if files.record else []
    return [*loaders, *devices, *executed, *record]


def grants(profile: str, packages: list[PackageFiles], files: ToolFiles | None) -> list[tuple[str, int]]:
    """Landlock's (path, rights) for a profile; an executable is linked statically and may open nothing.

    Args:
      profile: "program" for Python, "tool" for compilers, "executable" for what they make, "runtime" for what
        runs through an interpreter or needs files.
      packages: what Python programs may import besides the standard library.
      files: what tools and runtimes see; others have none.
    Returns: pairs of a path and the rights below it, joined by |.
    """
    if profile in ("tool", "runtime"):
        assert files is not None, f"a {profile} needs a scratch folder"
        return _tool_grants(files) if profile == "tool" else _runtime_grants(files)
    return _program_grants(packages) if profile == "program" else []


def private_root_plan(
    profile: str, packages: list[PackageFiles], files: ToolFiles | None
) -> list[tuple[str, str]]:
    """What a private root shows, in order of mounting: ("show" | "hide" | "write", path).

    Args:
      profile: "tool" also sees compilers and headers.
      packages: installed packages to show besides the standard library.
      files: what tools and runtimes see.
    Returns: the steps; later ones may hide or show parts of what earlier ones showed.
    """
    library = standard_library()
    shown = [library, *_LIBRARY_DIRECTORIES, "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"]
    shown += ["/dev/null", "/dev/urandom", "/dev/zero"]
    if profile == "tool":
        shown += ["/usr/bin", "/bin", "/usr/include", "/usr/local/include", "/usr/libexec"]
    plan = [("show", path) for path in shown if os.path.lexists(path)]
    plan += [
        ("hide", f"{library}/{name}") for name in _SITE_DIRECTORIES if os.path.isdir(f"{library}/{name}")
    ]
    plan += [("show", f"{found.directory}/{entry}") for found in packages for entry in found.entries]
    if files is None:
        return plan
    plan += [("hide", _DISTRIBUTION_PACKAGES)] if os.path.isdir(_DISTRIBUTION_PACKAGES) else []
    plan += [("show", path) for path in files.reads if not any(_is_below(path, top) for top in shown)]
    if profile == "tool":
        return [*plan, ("write", files.scratch)]
    record = [("write", files.record)] if files.record else []
    return [*plan, ("show", files.scratch), *record]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def import_path() -> list[str]:
    """sys.path of untrusted programs: the standard library; named packages have a finder of their own."""
    library = standard_library()
    zipped = f"{os.path.dirname(library)}/python{sys.version_info.major}{sys.version_info.minor}.zip"
    return [zipped, library, f"{library}/lib-dynload"]

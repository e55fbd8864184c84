"""The allocator keeps what it has: touching the same memory again costs no page faults."""

import subprocess
import sys

PROGRAM = """
import ctypes, resource
from training.runtime import allocator
from training.runtime.allocator import keep_memory, one_heap, release_memory
one_heap()
if {large}:
    allocator.KEEP_BELOW = 1
if {keep}:
    keep_memory()
if {release}:
    release_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def step():
    block = libc.malloc(1 << 26)
    ctypes.memset(ctypes.c_void_p(block), 1, 1 << 26)
    libc.free(ctypes.c_void_p(block))
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool, release: bool = False, large: bool = False, **environment: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(keep=keep, release=release, large=large)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
    return int(said.stdout)


def test_freed_memory_is_used_again_without_page_faults():
    pages = 4 * (1 << 26) // 4096
    assert faults(keep=False) >= pages
    assert faults(keep=True) < pages / 100


def test_what_was_kept_is_given_back():
    assert faults(keep=True, release=True) >= 4 * (1 << 26) // 4096


def test_settings_of_the_user_are_left_alone():
    assert faults(keep=True, MALLOC_ARENA_MAX="2") >= 4 * (1 << 26) // 4096


def test_a_large_process_gives_memory_back_as_the_library_does():
    assert faults(keep=True, large=True) >= 4 * (1 << 26) // 4096

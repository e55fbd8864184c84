"""Ctrl-C before and after a run listens for it: the program ends at once, as on SIGTERM.

Python's own handler raises KeyboardInterrupt wherever the program is. Inside an import or a library this
leads to a stack dump, and some libraries catch it. Ending at once loses nothing: files are written whole or
not at all, and the kernel releases a run's lock. While steps run, training.runtime.stop listens.
"""

import signal


def end_at_once() -> None:
    """Makes Ctrl-C end the program from now on; one that is ignored (as under nohup) or already handled stays
    so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

"""Ctrl-C before and after a run listens for it: the program ends at once, as SIGTERM ends it.

Python's own handler raises KeyboardInterrupt wherever the program is. Inside an import or a library that
ends in a stack dump, and some libraries catch it. Nothing is lost: files are written whole or not at all,
and the kernel lets go of a run's lock. While steps are made, training.runtime.stop listens.
"""

import signal


def end_at_once() -> None:
    """From now on; a Ctrl-C that is ignored (as under nohup) or handled already stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

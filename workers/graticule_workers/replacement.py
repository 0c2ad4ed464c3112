"""A worker process that replaces itself: the only way out of native code that does not return."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_REPLACE = 75
"""Exit code (EX_TEMPFAIL) where a process cannot replace itself: whoever started it has to do so."""


def replace_process(why: str) -> NoReturn:
    """Write down where every thread is, then begin again as a new process with the same arguments and process id.

    Messages that were being worked on return to their queues by themselves.
    """
    log.critical("%s This worker process replaces itself. Where its threads are:", why)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    sys.stderr.flush()
    if sys.platform == "win32":  # a new process there would have another id, and nobody would wait for it
        os._exit(EXIT_REPLACE)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (no shell, our own arguments)

"""Ends the children of a supervisor that was killed. Started by it as a script; uses the standard library only.

Reads lines from standard input: `+ <process group>` for a child that was started, `- <process group>` for one that
ended. The end of the input means that the supervisor is gone: whatever is left is told to stop, the latest first, and
killed after a while. Runs in a session of its own, so that no signal of a terminal reaches it.
"""

import os
import signal
import sys
import time

GRACE = 8.0


def main() -> None:
    """Follow the supervisor until it ends, then clean up."""
    groups: list[int] = []
    for line in sys.stdin:
        sign, _, group = line.strip().partition(" ")
        if sign == "+":
            groups.append(int(group))
        elif sign == "-" and int(group) in groups:
            groups.remove(int(group))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in reversed(groups):
            tell(group, number)
        deadline = time.monotonic() + GRACE
        while any(tell(group, 0) for group in groups) and time.monotonic() < deadline:
            time.sleep(0.05)


def tell(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there was one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()

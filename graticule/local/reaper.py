"""Ends the children of a supervisor that was killed. Started by it as a script; uses the standard library only.

Reads lines from standard input: `+ <process group> <stage>` for a child that was started, `- <process group>` for one
that ended. The end of the input means that the supervisor is gone: whatever is left is told to stop, the highest stage
first (workers before the servers that they use), and killed after a while. Runs in a session of its own, so that no
signal of a terminal reaches it.
"""

import os
import signal
import sys
import time

GRACE = 5.0
"""Seconds that each stage may take to stop."""


def main() -> None:
    """Follow the supervisor until it ends, then clean up."""
    groups: dict[int, int] = {}
    for line in sys.stdin:
        sign, group, *stage = line.split()
        if sign == "+":
            groups[int(group)] = int(stage[0])
        else:
            groups.pop(int(group), None)
    for stage in sorted(set(groups.values()), reverse=True):
        end([group for group, its_stage in groups.items() if its_stage == stage])


def end(groups: list[int]) -> None:
    """Tell process groups to stop, wait, and kill what is left of them."""
    for group in groups:
        tell(group, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while any(is_running(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        tell(group, signal.SIGKILL)


def tell(group: int, number: int) -> None:
    """Send a signal to a process group, if there is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def is_running(leader: int) -> bool:
    """Whether the first process of a group runs. A zombie does not: not every container's init collects them."""
    try:
        os.kill(leader, 0)
        with open(f"/proc/{leader}/stat", "rb") as file:  # noqa: PTH123 (no import but the quickest)
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except (ProcessLookupError, PermissionError):
        return False
    except OSError:  # no /proc: macOS, where init collects them
        return True


if __name__ == "__main__":
    main()

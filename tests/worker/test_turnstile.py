"""Many at once, or one alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from graticule_workers.engine.turnstile import Turnstile
from tests.worker.conftest import wait_until


def test_any_number_pass_together():
    turnstile, together = Turnstile(), threading.Barrier(4, timeout=10)

    def enter() -> None:
        with turnstile.passing(alone=False):
            together.wait()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(enter) for _ in range(4)]:
            future.result(10)


def test_a_loner_waits_for_the_others_and_those_behind_it_wait_for_the_loner():
    turnstile, leave, order = Turnstile(), threading.Event(), []

    def first() -> None:
        with turnstile.passing(alone=False):
            leave.wait(10)
            order.append("first")

    def loner() -> None:
        with turnstile.passing(alone=True):
            order.append("loner")

    def late() -> None:
        with turnstile.passing(alone=False):
            order.append("late")

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(first)]
        wait_until(lambda: turnstile._inside == 1, 10)
        futures.append(pool.submit(loner))
        wait_until(lambda: turnstile._loners == 1, 10)
        futures.append(pool.submit(late))
        leave.set()
        for future in futures:
            future.result(10)
    assert order == ["first", "loner", "late"]


def test_loners_go_one_by_one_even_when_they_fail():
    turnstile, inside, most = Turnstile(), [0], [0]

    def loner(number: int) -> None:
        with turnstile.passing(alone=True):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
            if number % 2:
                raise ValueError(number)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(loner, number) for number in range(40)]
    assert most[0] == 1
    assert sum(future.exception() is not None for future in futures) == 20
    with turnstile.passing(alone=False):
        pass

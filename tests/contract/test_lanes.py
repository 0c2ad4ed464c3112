"""Whose turn it is: interactive before bulk, models in turn, by the order in which a worker looks into its queues."""

from __future__ import annotations

from collections import Counter

from graticule.broker import LaneCycle


def serve(cycle: LaneCycle, waiting: dict[str, int], turns: int) -> list[str]:
    """What Redis does: pop from the first queue in the worker's order that is not empty."""
    served = []
    for _ in range(turns):
        queue = next(queue for queue in cycle.consume(len(waiting)) if waiting[queue])
        waiting[queue] -= 1
        served.append(queue)
        cycle.rotate(queue)
    return served


def test_every_interactive_job_goes_before_any_bulk_job():
    waiting = {"a.bulk": 10, "b.bulk": 10, "a.interactive": 2, "b.interactive": 1}
    served = serve(LaneCycle(list(waiting)), waiting, 5)
    assert {queue.rpartition(".")[2] for queue in served[:3]} == {"interactive"}
    assert {queue.rpartition(".")[2] for queue in served[3:]} == {"bulk"}


def test_models_take_turns_however_much_one_of_them_has_waiting():
    waiting = {"a.bulk": 1000, "b.bulk": 5, "c.bulk": 5}
    assert Counter(serve(LaneCycle(list(waiting)), waiting, 9)) == {"a.bulk": 3, "b.bulk": 3, "c.bulk": 3}

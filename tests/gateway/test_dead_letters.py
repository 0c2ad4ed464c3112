"""Dead letters over HTTP: listed, tried again, dropped by who may."""

from __future__ import annotations

from graticule.dead_letters import DeadLetter, DeadLetters
from graticule.jobs import utc_now
from graticule.records import Records
from graticule.store import Store
from tests.worker.test_worker import picture


def test_a_dead_letter_is_listed_tried_again_and_dropped(start_gateway, brightness):
    gateway, records = start_gateway(), Records(Store(brightness))
    (job,) = gateway.submit(("dead.png", picture()), model="brightness").json["jobs"]
    path = f"/api/v1/dead-letters/{job['job_id']}"
    (pending,) = records.oldest_pending()
    sent = records.read_pending(pending.key)
    letters = DeadLetters(brightness, records)
    letters.keep(DeadLetter(job=sent, error="Poison", message="It died.", stage="infer", given_up_at=utc_now()))
    (listed,) = gateway.get("/api/v1/dead-letters").json
    assert (listed["job"]["job_id"], listed["message"]) == (job["job_id"], "It died.")
    retried = gateway.post(f"{path}/retry")
    assert (retried.status, retried.json["status"]) == (202, "waiting")
    assert gateway.get("/api/v1/dead-letters").json == []
    assert gateway.post(f"{path}/retry").status == 404
    letters.keep(DeadLetter(job=sent, error="Poison", message="It died.", stage="infer", given_up_at=utc_now()))
    assert gateway.ask("DELETE", path).status == 204
    assert gateway.ask("DELETE", path).status == 404

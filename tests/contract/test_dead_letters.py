"""Dead letters: kept with their history, sent again as submissions of their own, dropped."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from graticule.broker import connect_redis
from graticule.cli import app
from graticule.dead_letters import DeadLetter, DeadLetters, Death
from graticule.errors import UnknownDeadLetter
from graticule.jobs import Source, new_job, utc_now
from graticule.records import Records
from graticule.results import Failure
from graticule.store import Store


@pytest.fixture
def records(settings):
    return Records(Store(settings))


@pytest.fixture
def letters(settings, records):
    return DeadLetters(settings, records)


def given_up(records: Records, number: int = 0, *, deaths: int = 3) -> DeadLetter:
    """The dead letter of a job that ended in a failure."""
    image = records.store.put_image(f"picture {number}".encode(), f"plate {number}.png")
    job = new_job(image, "some-model", source=Source(producer="test", host="scope", path="/data/plate.png"))
    failure = Failure(
        job=job, error="PoisonJob", message="3 processes died.", stage="infer", tries=3, completed_at=utc_now()
    )
    death = Death(at=utc_now(), what="the worker that held the job died", noted_by="host-1")
    return DeadLetter.of(failure, (death,) * deaths)


def test_a_letter_is_read_as_it_was_kept(letters, records):
    letter = given_up(records)
    letters.keep(letter)
    assert letters.ids() == [letter.job.job_id]
    assert letters.read(letter.job.job_id) == letter


def test_sent_again_it_is_a_new_submission_that_waits_for_a_worker(letters, records, settings):
    letter = given_up(records)
    letters.keep(letter)
    job = letters.retry(letter.job.job_id)
    assert (job.job_id, job.submitted_at > letter.job.submitted_at) == (letter.job.job_id, True)
    assert letters.ids() == []
    (pending,) = records.oldest_pending()
    assert records.read_pending(pending.key) == job
    assert connect_redis(settings).llen(settings.key_prefix + job.queue) == 1
    assert not records.is_finished(job), "the failure of the earlier submission does not answer this one"


def test_dropped_it_is_gone_but_its_picture_is_not(letters, records):
    letter = given_up(records)
    letters.keep(letter)
    letters.drop(letter.job.job_id)
    assert letters.ids() == []
    assert records.store.get_image(letter.job.image) == b"picture 0"


@pytest.mark.parametrize("job_id", ["0" * 32, "../../etc/passwd", "", "0" * 31, "0" * 32 + "\n"])
def test_what_is_not_there_is_unknown(letters, job_id):
    for action in (letters.read, letters.retry, letters.drop):
        with pytest.raises(UnknownDeadLetter):
            action(job_id)


@pytest.fixture
def command(settings, monkeypatch):
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str):
        return CliRunner().invoke(app, ["dead-letters", *arguments])

    return run


def test_the_command_shows_them(command, letters, records):
    assert "No dead letters" in command("list").output
    letter = given_up(records)
    letters.keep(letter)
    records.keep_undecodable(b"rubbish")
    listed = command("list").output
    assert "plate 0.png" in " ".join(listed.split())
    assert "not a job" in listed
    lines = [json.loads(line) for line in command("list", "--json").output.splitlines()]
    assert DeadLetter.model_validate(lines[0]) == letter
    assert lines[1]["undecodable"].startswith("dead/")
    shown = command("show", letter.job.job_id).output
    for expected in ("plate 0.png", "/data/plate.png", "PoisonJob in infer: 3 processes died.", "noted by host-1"):
        assert expected in shown
    assert DeadLetter.model_validate_json(command("show", letter.job.job_id, "--json").output) == letter


def test_the_command_sends_again_and_drops(command, letters, records):
    kept = [given_up(records, number) for number in range(4)]
    for letter in kept:
        letters.keep(letter)
    ids = [letter.job.job_id for letter in kept]
    assert command("retry", ids[0]).exit_code == 0
    assert command("drop", ids[1]).exit_code == 0
    assert set(letters.ids()) == set(ids[2:])
    assert command("retry", "--all").exit_code == 0
    assert letters.ids() == []
    assert len(records.oldest_pending()) == 3


def test_the_command_does_nothing_by_mistake(command, letters, records):
    letter = given_up(records)
    letters.keep(letter)
    job_id = letter.job.job_id
    for arguments in (("drop",), ("retry",), ("drop", "--all", job_id), ("drop", job_id, "f" * 32)):
        assert command(*arguments).exit_code != 0
    assert letters.ids() == [job_id], "nothing of a list with a mistake is dropped"

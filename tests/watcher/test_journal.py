"""What the journal remembers, and what makes a picture another picture."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from graticule.jobs import ImageRef, Job, Source, new_job
from graticule.settings import Settings
from graticule_producers.watcher.journal import Journal, JournalUnavailable, State, journal_name
from graticule_producers.watcher.looks import Look

ROOT = Path("/camera")


def look(name: str = "a.png", size: int = 10, mtime_ns: int = 5, changed_ns: int = 7) -> Look:
    return Look(f"{ROOT}/{name}", size, mtime_ns, changed_ns)


def job_for(journal: Journal, seen: Look) -> Job:
    intent = journal.intend(seen)
    image = ImageRef(bucket="images", key="k", sha256="0" * 64, size=seen.size, filename="a.png")
    return new_job(
        image, "m", source=Source(producer="watcher"), sequence=intent.sequence, submitted_at=intent.submitted_at
    )


@pytest.fixture
def journal(tmp_path: Path):
    opened = Journal(tmp_path / "journal.sqlite", ROOT)
    yield opened
    opened.close()


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal.path, ROOT)


def test_a_submitted_picture_is_known_after_a_restart(journal):
    journal.submitted(look(), [job_for(journal, look())])
    again = reopened(journal)
    assert again.unknown([look(), look("b.png")]) == [look("b.png")]
    assert again.submitted_before == 1
    again.close()


@pytest.mark.parametrize("other", [look(size=11), look(mtime_ns=6), look("b.png")])
def test_another_size_time_or_path_is_another_picture(journal, other):
    journal.submitted(look(), [job_for(journal, look())])
    assert journal.unknown([other]) == [other]


def test_an_interrupted_submission_is_repeated_with_its_time_and_number(journal):
    first = journal.intend(look())
    again = reopened(journal)
    assert again.begun_before == 1
    assert again.unknown([look()]) == [look()]
    repeated = again.intend(look())
    assert (repeated.sequence, repeated.submitted_at) == (first.sequence, first.submitted_at)
    assert repeated.repeated and not first.repeated
    assert again.intend(look("b.png")).sequence == first.sequence + 1
    again.close()


def test_a_new_version_of_a_file_replaces_an_intent_that_never_got_through(journal):
    journal.intend(look())
    journal.intend(look(size=11))
    assert journal.count(State.INTENDED) == 1


def test_an_unreadable_file_is_tried_again_when_its_entry_changes_and_after_a_restart(journal):
    journal.unreadable(look(), "no permission")
    assert journal.unknown([look()]) == []
    assert journal.unknown([look(changed_ns=8)]) == [look()]
    again = reopened(journal)
    assert again.unknown([look()]) == [look()]
    again.close()


def test_what_was_there_before_is_known_until_it_is_asked_for(journal):
    journal.see([look()])
    journal.start()
    assert journal.unknown([look()]) == []
    journal.forget_seen()
    assert journal.unknown([look()]) == [look()]


def test_a_second_watcher_is_refused(journal):
    with pytest.raises(JournalUnavailable, match="Another watcher"):
        Journal(journal.path, ROOT)


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(JournalUnavailable, match="damaged"):
        Journal(path, ROOT)


def test_a_full_disk_holds_pictures_back_and_what_was_sent_is_written_later(journal):
    sent = job_for(journal, look())
    limit_pages(journal, 1)
    with pytest.raises(JournalUnavailable, match="Is the disk full"):
        for number in range(10_000):
            journal.intend(look(f"{number}-{'n' * 200}.png"))
    journal.submitted(look(), [sent])
    limit_pages(journal, 100_000)
    journal.settle_debts()
    assert journal.pictures(State.SUBMITTED) == [("a.png", sent.job_id)]


def limit_pages(journal: Journal, pages: int) -> None:
    journal._database.execute(f"PRAGMA max_page_count = {pages}")


NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, ord("/")})
KEYS = st.tuples(NAMES, st.integers(0, 3), st.integers(-2, 2**62))


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.lists(KEYS, max_size=20), st.lists(KEYS, max_size=20))
def test_known_is_exactly_what_was_noted_whatever_the_names(noted, asked):
    def as_look(key: tuple[bytes, int, int]) -> Look:
        return Look(f"{ROOT}/{os.fsdecode(key[0])}", key[1], key[2])

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "j.sqlite", ROOT)
        try:
            for key in noted:
                if journal.unknown([as_look(key)]):
                    journal.submitted(as_look(key), [job_for(journal, as_look(key))])
            expected = [as_look(key) for key in asked if key not in noted]
            assert journal.unknown([as_look(key) for key in asked]) == expected
            sequences = [row[0] for row in journal._database.execute("SELECT sequence FROM pictures ORDER BY 1")]
            assert sequences == list(range(1, len(set(noted)) + 1))
        finally:
            journal.close()


def test_the_file_is_another_one_for_another_folder_model_store_or_namespace(tmp_path: Path):
    base = Settings(s3_url="http://store:9000")
    names = {
        journal_name(base, tmp_path, "m"),
        journal_name(base, tmp_path / "x", "m"),
        journal_name(base, tmp_path, "n"),
        journal_name(Settings(s3_url="http://other:9000"), tmp_path, "m"),
        journal_name(Settings(s3_url="http://store:9000", namespace="n"), tmp_path, "m"),
    }
    assert len(names) == 5
    assert journal_name(base, tmp_path / "y" / "..", "m") == journal_name(base, tmp_path, "m")


def test_the_journal_can_be_read_with_plain_sqlite(journal):
    journal.submitted(look(), [job_for(journal, look())])
    journal.close()
    with sqlite3.connect(journal.path) as database:
        assert database.execute("SELECT CAST(path AS TEXT), state FROM pictures").fetchall() == [("a.png", "submitted")]
    database.close()

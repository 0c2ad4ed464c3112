"""The jobs lately, in Redis: what pages and the gateway list and plot.

An index only: it follows the events, may be lost, and is rebuilt from the results bucket. The truth about a job is in
the object store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, cast

import redis
from pydantic import AwareDatetime, ConfigDict, Field

from graticule.broker import connect_redis, translated_redis_errors
from graticule.events import Event
from graticule.jobs import Job, Message, time_key
from graticule.records import Records
from graticule.settings import Settings

MOST_JOBS = 50_000
"""Jobs kept; older ones are in the object store only."""

_BATCH = 500
_MOST_SCANNED = 10_000
"""Entries looked at for one page of a rare combination of filters."""

# One script, so that the entry of a job and the lists that name it never disagree, whoever adds at the same time.
# A result is final; what is older than the entry that is there, or only says "waiting" about the same submission, is
# late news. Members of the lists begin with the time of the change, so that their order is that of time.
_ADD = """
local jobs, prefix, id, most = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[4])
local function forget(id)
  local known = redis.call('HGET', jobs, id)
  if not known then return end
  known = cjson.decode(known)
  for _, list in ipairs(known.lists) do redis.call('ZREM', prefix .. list, known.member) end
  redis.call('HDEL', jobs, id)
end
local new, old = cjson.decode(ARGV[3]), redis.call('HGET', jobs, id)
if old then
  old = cjson.decode(old)
  if old.status == 'succeeded' and new.status ~= 'succeeded' then return 0 end
  if new.submission < old.submission then return 0 end
  if new.submission == old.submission and new.status == 'waiting' then return 0 end
  forget(id)
end
redis.call('HSET', jobs, id, ARGV[3])
for _, list in ipairs(new.lists) do redis.call('ZADD', prefix .. list, 0, new.member) end
if new.stream ~= '' then
  local newest = redis.call('HGET', prefix .. 'streams', new.stream)
  if not newest or newest < new.member then redis.call('HSET', prefix .. 'streams', new.stream, new.member) end
end
local excess = redis.call('ZCARD', prefix .. 'all') - most
if excess > 0 then
  for _, member in ipairs(redis.call('ZRANGE', prefix .. 'all', 0, excess - 1)) do
    forget(string.sub(member, -32))
  end
end
return 1
"""

Status = Literal["waiting", "succeeded", "failed"]


class Summary(Message):
    """A job in one line."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    status: Status
    model: str
    stream: str
    filename: str
    sequence: int | None = Field(default=None, description="Position within the stream, if the producer knows it.")
    frame: int = Field(default=0, description="Frame within the file.")
    count: int | None = Field(default=None, description="Objects; none unless it succeeded.")
    area_fraction: float | None = Field(default=None, description="Object pixels / all pixels of the picture.")
    mean_radius: float | None = Field(default=None, description="Mean equivalent radius, px; none without objects.")
    error: str = Field(default="", description="Class of the error of a job that failed.")
    message: str = Field(default="", description="Why it failed.")
    captured_at: AwareDatetime | None = None
    submitted_at: AwareDatetime
    completed_at: AwareDatetime | None = Field(default=None, description="None while it waits.")
    pending_key: str = Field(default="", description="Where a waiting job's record lies.")

    @property
    def changed_at(self) -> datetime:
        """When it ended, or was submitted."""
        return self.completed_at or self.submitted_at

    @classmethod
    def of_event(cls, event: Event) -> Summary:
        """The line of a job that has ended."""
        values = event.model_dump()
        return cls(**{**values, "submitted_at": event.submitted_at or event.completed_at})

    @classmethod
    def of_job(cls, job: Job) -> Summary:
        """The line of a job that was submitted just now."""
        return cls(
            job_id=job.job_id,
            status="waiting",
            model=job.model,
            stream=job.stream,
            filename=job.image.filename,
            sequence=job.sequence,
            frame=job.image.frame,
            captured_at=job.captured_at,
            submitted_at=job.submitted_at,
            pending_key=job.pending_key,
        )


class Filter(Message):
    """Which jobs a page lists; empty fields take everything."""

    model_name: str = ""
    stream: str = ""
    status: Status | None = None
    text: str = Field(default="", description="Part of the file's name, whatever the case.")

    def takes(self, summary: Summary) -> bool:
        """Whether a job is among those that are asked for."""
        return (
            (not self.model_name or summary.model.partition("@")[0] == self.model_name)
            and (not self.stream or summary.stream == self.stream)
            and (self.status is None or summary.status == self.status)
            and self.text.casefold() in summary.filename.casefold()
        )


class StreamInfo(Message):
    """A series of pictures."""

    name: str
    jobs: int = Field(description="Jobs in the index.")
    newest: Summary


class JobIndex:
    """Writes and reads the index of one cluster. Thread-safe. Every method raises BrokerUnavailable."""

    def __init__(self, settings: Settings, client: redis.Redis | None = None, *, most: int = MOST_JOBS) -> None:
        self.settings = settings
        self._redis = client or connect_redis(settings)
        self._most = most
        self._prefix = f"{settings.key_prefix}graticule:index:"
        self._jobs = self._prefix + "jobs"
        self._add = self._redis.register_script(_ADD)

    def add(self, summaries: Iterable[Summary]) -> None:
        """Enter jobs; one that is known better already stays as it is."""
        with translated_redis_errors(self.settings):
            pipeline = self._redis.pipeline(transaction=False)
            for summary in summaries:
                arguments = [self._prefix, summary.job_id, _record(summary), self._most]
                self._add(keys=[self._jobs], args=arguments, client=pipeline)
            pipeline.execute()

    def get(self, job_id: str) -> Summary | None:
        """The line of one job; None: not in the index."""
        return next(iter(self._summaries([job_id])), None)

    def page(self, wanted: Filter, *, cursor: str = "", limit: int = 50) -> tuple[list[Summary], str]:
        """Up to `limit` jobs, the newest change first, and the cursor of the next page; empty: there is none."""
        found: list[Summary] = []
        list_name, scanned = _best_list(wanted), 0
        while scanned < _MOST_SCANNED:
            members = self._members(list_name, cursor, _BATCH)
            scanned += len(members)
            by_id = {summary.job_id: summary for summary in self._summaries(map(_job_id, members))}
            for member in members:
                cursor = member
                summary = by_id.get(_job_id(member))
                if summary and wanted.takes(summary):
                    found.append(summary)
                    if len(found) == limit:
                        return found, cursor
            if len(members) < _BATCH:
                return found, ""
        return found, cursor

    def streams(self) -> list[StreamInfo]:
        """Every series, the one with the newest job first."""
        with translated_redis_errors(self.settings):
            newest = cast("dict[str, str]", self._redis.hgetall(self._prefix + "streams"))
            names = sorted(newest, key=newest.__getitem__, reverse=True)
            sizes = [cast("int", self._redis.zcard(self._prefix + _stream_list(name))) for name in names]
        known = {summary.stream: summary for summary in self._summaries(_job_id(newest[name]) for name in names)}
        return [
            StreamInfo(name=name, jobs=size, newest=known[name])
            for name, size in zip(names, sizes, strict=True)
            if name in known
        ]

    def series(self, stream: str, limit: int = 1000) -> list[Summary]:
        """The newest `limit` jobs of a stream that have ended, the first picture first."""
        jobs = self._summaries(map(_job_id, self._members(_stream_list(stream), "", limit)))
        ended = (job for job in jobs if job.completed_at)
        return sorted(ended, key=lambda job: (job.captured_at or job.changed_at, job.sequence or 0, job.frame))

    @property
    def position(self) -> str:
        """Up to where the events are in the index; empty: nowhere, the index is new or was lost."""
        with translated_redis_errors(self.settings):
            return cast("str | None", self._redis.get(self._prefix + "position")) or ""

    @position.setter
    def position(self, position: str) -> None:
        with translated_redis_errors(self.settings):
            self._redis.set(self._prefix + "position", position)

    def _members(self, list_name: str, before: str, limit: int) -> list[str]:
        """Members of a list before a cursor, the newest first."""
        highest = f"({before}" if before else "+"
        with translated_redis_errors(self.settings):
            found = self._redis.zrevrangebylex(self._prefix + list_name, highest, "-", start=0, num=limit)
        return cast("list[str]", found)

    def _summaries(self, job_ids: Iterable[str]) -> list[Summary]:
        wanted = list(job_ids)
        if not wanted:
            return []
        with translated_redis_errors(self.settings):
            raw = cast("Sequence[str | None]", self._redis.hmget(self._jobs, wanted))
        return [Summary.model_validate_json(json.loads(text)["summary"]) for text in raw if text]


def rebuild(index: JobIndex, records: Records, is_over: Callable[[], bool] = lambda: False) -> int:
    """Enter every job that the results bucket holds; how many there are. Stops early when `is_over` says so.

    Raises StoreUnavailable, BrokerUnavailable.
    """
    total = 0
    for folder in records.store.keys("results"):
        if is_over():
            break
        if outcome := records.outcome(folder.rstrip("/")):
            index.add([Summary.of_event(Event.of(outcome))])
            total += 1
    return total


def _record(summary: Summary) -> str:
    """What the script needs to know about an entry, and the entry itself as text that it does not look into."""
    lists = ["all", f"status:{summary.status}", f"model:{summary.model.partition('@')[0]}"]
    if summary.stream:
        lists.append(_stream_list(summary.stream))
    return json.dumps(
        {
            "status": summary.status,
            "submission": time_key(summary.submitted_at),
            "stream": summary.stream,
            "member": f"{time_key(summary.changed_at)}~{summary.job_id}",
            "lists": lists,
            "summary": summary.model_dump_json(exclude_defaults=True),
        }
    )


def _stream_list(stream: str) -> str:
    return f"stream:{hashlib.sha256(stream.encode()).hexdigest()[:32]}"


def _best_list(wanted: Filter) -> str:
    """The shortest list that holds everything that is asked for."""
    if wanted.stream:
        return _stream_list(wanted.stream)
    if wanted.status in ("waiting", "failed"):
        return f"status:{wanted.status}"
    if wanted.model_name:
        return f"model:{wanted.model_name}"
    return f"status:{wanted.status}" if wanted.status else "all"


def _job_id(member: str) -> str:
    return member.rpartition("~")[2]

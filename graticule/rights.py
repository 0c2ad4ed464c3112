"""Rights: what each role may do in the object store and in Redis, in one place.

From it come the S3 policies (MinIO, SeaweedFS, Amazon), Redis' list of users, the tables of the documentation, and the
files in `deploy/`. A role gets what its processes were seen to need, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from graticule.settings import Settings
from graticule.store import PURPOSES, Purpose


class Role(StrEnum):
    """Who holds a key."""

    AGENT = "agent"
    CLIENT = "client"
    GATEWAY = "gateway"
    WORKER = "worker"
    PUBLISHER = "publisher"
    FLOWER = "flower"
    MONITOR = "monitor"
    ADMIN = "admin"


@dataclass(frozen=True)
class BucketRights:
    """What a role may do with the objects of one bucket."""

    purpose: Purpose
    read: bool = False
    """Read and list everything in it."""
    write: tuple[str, ...] = ()
    """Keys that may be written, with `*`."""
    remove: tuple[str, ...] = ()
    """Keys that may be removed, with `*`."""


@dataclass(frozen=True)
class RedisRights:
    """What a role may do in Redis. Patterns are without the namespace's prefix."""

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rights:
    """Everything that a role may do."""

    what: str
    """Who that is, for people."""
    buckets: tuple[BucketRights, ...] = ()
    redis: RedisRights | None = None


ALL = ("*",)
_PENDING = ("pending/*",)
_ENDED = ("pending/*", "dead/*")

# Messages of jobs. Celery keeps a queue's less urgent messages under its name with a suffix.
_QUEUES = ("*.interactive*", "*.bulk*")
_BINDINGS = ("_kombu.binding*",)
# Redis compares the pattern of a subscription with these letter by letter: the URL's database is 0.
_CELERY_CHANNELS = ("/0.celeryev/*", "/0.celery.pidbox")

# Clients also say who they are (CLIENT SETINFO); that is refused without harm, because CLIENT can do much more, and not
# every Redis can allow a part of it.
_CONNECT = ("ping", "hello", "auth", "select")
_TRANSACTION = ("multi", "exec", "discard")
# Where queues are noted, with the time until which each counts. What a script calls is checked like any other call.
_BIND = ("evalsha", "script|load", "script|exists", "time", "sadd", "smembers", "zadd", "zrangebyscore")
_SEND = (*_CONNECT, *_TRANSACTION, "lpush", "llen", "sadd", "smembers")
_LISTEN = ("xread", "xrange", "xrevrange")
_TELL = ("evalsha", "script|load", "script|exists", "zadd", "zmscore", "zremrangebyrank", "hincrby", "xadd")
_SUBSCRIBE = ("publish", "subscribe", "psubscribe", "unsubscribe", "punsubscribe")

RIGHTS: dict[Role, Rights] = {
    Role.AGENT: Rights(
        "a watcher on an instrument's computer: sends pictures and jobs, reads neither pictures nor results",
        (
            BucketRights("images", write=ALL),
            BucketRights("jobs", write=_PENDING),
            BucketRights("models", read=True),
        ),
        RedisRights(_SEND, (*_QUEUES, *_BINDINGS)),
    ),
    Role.CLIENT: Rights(
        "people and programs with the Python client: send, and read pictures and results",
        (
            BucketRights("images", read=True, write=ALL),
            BucketRights("jobs", write=_PENDING),
            BucketRights("results", read=True),
            BucketRights("models", read=True),
        ),
        RedisRights((*_SEND, *_LISTEN), (*_QUEUES, *_BINDINGS, "graticule:events")),
    ),
    Role.GATEWAY: Rights(
        "the web page and HTTP: sends, reads, cancels, retries; cannot write results or models",
        (
            BucketRights("images", read=True, write=ALL),
            BucketRights("jobs", read=True, write=_ENDED, remove=_ENDED),
            BucketRights("results", read=True, write=("*/failure.json",)),
            BucketRights("models", read=True),
            BucketRights("access", read=True),
        ),
        RedisRights(
            (
                *(*_SEND, *_LISTEN, *_TELL),
                *("get", "set", "del", "hget", "hset", "hdel", "hmget", "hgetall", "hlen"),
                *("zcard", "zrange", "zrem", "zrevrangebylex"),
            ),
            (
                *(*_QUEUES, *_BINDINGS, "unacked", "graticule:events", "graticule:counters", "graticule:told"),
                *("graticule:workers", "graticule:index:*", "graticule:session:*", "graticule:repeat:*"),
            ),
        ),
    ),
    Role.WORKER: Rights(
        "takes jobs, reads pictures and models, writes results",
        (
            BucketRights("images", read=True),
            BucketRights("jobs", read=True, write=("dead/*",), remove=_PENDING),
            BucketRights("results", read=True, write=ALL),
            BucketRights("models", read=True),
        ),
        RedisRights(
            (
                *(*_SEND, *_BIND, *_TELL, *_SUBSCRIBE, "watch", "unwatch"),
                *("get", "set", "getdel", "del", "exists", "expire", "pexpire", "pttl", "srem"),
                *("rpush", "brpop", "lrange", "lindex"),
                *("hget", "hset", "hdel", "hgetall", "zrem", "zrange"),
            ),
            (
                *(*_QUEUES, *_BINDINGS, "unacked", "unacked_index", "unacked_mutex", "graticule.unrouted*"),
                *("*.celery.pidbox*", "celeryev.*"),
                *("graticule:events", "graticule:counters", "graticule:told", "graticule:workers"),
                *("graticule:reconciler", "graticule:rung:*", "graticule:deaths:*", "graticule:verdict:*"),
            ),
            _CELERY_CHANNELS,
        ),
    ),
    Role.PUBLISHER: Rights(
        "publishes, promotes and removes models",
        (BucketRights("models", read=True, write=ALL, remove=ALL),),
    ),
    Role.FLOWER: Rights(
        "shows queues and tasks, asks the workers; cannot take messages of jobs",
        (),
        RedisRights(
            (
                *(*_CONNECT, *_TRANSACTION, *_SUBSCRIBE, *_BIND, "watch", "unwatch"),
                *("brpop", "llen", "del", "srem", "set", "get", "zrange", "zrem", "hset", "hget", "hdel"),
            ),
            (*_BINDINGS, "*.celery.pidbox*", "celeryev.*", "observer.unacked*"),
            _CELERY_CHANNELS,
        ),
    ),
    Role.MONITOR: Rights(
        "health checks and scaling: the length of queues, figures about the server",
        (),
        RedisRights((*_CONNECT, "info", "llen"), _QUEUES),
    ),
    Role.ADMIN: Rights(
        "everything: tokens, backup, restore, dead letters",
        tuple(BucketRights(purpose, read=True, write=ALL, remove=ALL) for purpose in PURPOSES),
        RedisRights(("@all",), ALL, ALL),
    ),
}


def s3_roles() -> list[Role]:
    """Roles with a key of the object store."""
    return [role for role, rights in RIGHTS.items() if rights.buckets]


def redis_roles() -> list[Role]:
    """Roles with a user in Redis."""
    return [role for role, rights in RIGHTS.items() if rights.redis]


def s3_policy(role: Role, settings: Settings) -> dict[str, Any]:
    """The policy of a role, in the language of Amazon, MinIO and SeaweedFS."""
    statements: list[dict[str, Any]] = []
    for rights in RIGHTS[role].buckets:
        statements += _statements(rights, settings.bucket(rights.purpose))
    if role is Role.ADMIN:
        every = [f"arn:aws:s3:::{settings.bucket(purpose)}" for purpose in PURPOSES]
        statements.append(_allow(["s3:CreateBucket"], every))
        statements.append(_allow(["s3:ListAllMyBuckets"], ["arn:aws:s3:::*"]))
    return {"Version": "2012-10-17", "Statement": statements}


def redis_acl(settings: Settings, passwords: dict[Role, str]) -> str:
    """Redis' list of users (`aclfile`). `passwords`: what stands for each role's password, as `#<SHA-256>`."""
    lines = ["user default off resetchannels -@all"]
    for role in redis_roles():
        rights = RIGHTS[role].redis
        assert rights is not None
        lines.append(" ".join(["user", role.value, "on", passwords[role], *_acl_rules(rights, settings.key_prefix)]))
    return "\n".join(lines) + "\n"


def seaweedfs_identities(settings: Settings, secrets: dict[Role, str]) -> dict[str, Any]:
    """SeaweedFS' configuration of S3 (`-s3.config`); the access key of a role is its name."""
    return {
        "identities": [
            {
                "name": role.value,
                "credentials": [{"accessKey": role.value, "secretKey": secrets[role]}],
                "policyNames": [f"graticule-{role.value}"],
            }
            for role in s3_roles()
        ],
        "policies": [
            {"name": f"graticule-{role.value}", "content": json.dumps(s3_policy(role, settings))} for role in s3_roles()
        ],
    }


def rights_table() -> str:
    """Who may do what, as a Markdown table."""
    rows = ["| role | who | images | jobs | results | models | access | Redis |", "| --- " * 8 + "|"]
    for role, rights in RIGHTS.items():
        of = {bucket.purpose: bucket for bucket in rights.buckets}
        cells = [_cell(of[purpose]) if purpose in of else "" for purpose in PURPOSES]
        rows.append(f"| `{role.value}` | {' | '.join([rights.what, *cells, _redis_cell(rights.redis)])} |")
    return "\n".join(rows)


def _statements(rights: BucketRights, bucket: str) -> list[dict[str, Any]]:
    found = []
    arn = f"arn:aws:s3:::{bucket}"
    if rights.read:
        # Without the right to list, a store says "forbidden" of an object that is not there.
        found.append(_allow(["s3:GetBucketLocation", "s3:ListBucket"], [arn]))
        found.append(_allow(["s3:GetObject"], [f"{arn}/*"]))
    if rights.write:
        upload = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        found.append(_allow(upload, [f"{arn}/{keys}" for keys in rights.write]))
    if rights.remove:
        found.append(_allow(["s3:DeleteObject"], [f"{arn}/{keys}" for keys in rights.remove]))
    return found


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def _acl_rules(rights: RedisRights, prefix: str) -> Iterable[str]:
    # All keys and channels belong to the administrator, whatever the namespace.
    everything = rights.keys == ALL
    yield "resetchannels"
    yield from (f"~{key if everything else prefix + key}" for key in rights.keys)
    yield from (f"&{channel if everything else prefix + channel}" for channel in rights.channels)
    yield "-@all"
    yield from (f"+{command}" for command in dict.fromkeys(rights.commands))


def _cell(rights: BucketRights) -> str:
    said = ["read"] if rights.read else []
    for verb, keys in (("write", rights.write), ("remove", rights.remove)):
        if keys:
            said.append(verb if keys == ALL else f"{verb} {' '.join(f'`{key}`' for key in keys)}")
    return ", ".join(said)


def _redis_cell(rights: RedisRights | None) -> str:
    if rights is None:
        return ""
    return "everything" if rights.keys == ALL else f"{len(rights.commands)} commands on {len(rights.keys)} kinds of key"

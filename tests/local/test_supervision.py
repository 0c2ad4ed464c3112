"""One child under supervision, with stand-ins that die, hang, or start processes of their own."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from graticule.errors import ClusterError
from graticule.local import child as child_module
from graticule.local.certificate import self_signed
from graticule.local.child import Child, Part, Reaper
from graticule.local.leftovers import CHILDREN_FILE, MARK, end_leftovers, note
from graticule.local.ports import GRPC_OFFSET, choose_ports
from graticule.local.private import write_private

IDLE = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); time.sleep(600)"


def until(condition: Callable[[], object], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    made = Reaper()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path, reaper: Reaper) -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def make_child(code: str, **options) -> Child:
        part = Part("part", [sys.executable, "-S", "-c", code], is_ready=lambda _: True, **options)
        made.append(Child(part, tmp_path / "part.log", reaper))
        made[-1].start()
        return made[-1]

    yield make_child
    for one in made:
        one.stop(lambda: True)


def test_a_child_that_dies_again_and_again_is_started_less_and_less_often(make, monkeypatch):
    monkeypatch.setattr(child_module, "_FIRST_PAUSE", 0.1)
    dying = make("raise SystemExit(3)")
    dying._pause = 0.1
    said: list[str] = []
    until(lambda: said.append(dying.keep_alive()) or dying.restarts == 3)
    assert [line for line in said if "died" in line] == [
        f"part died (exit code 3); starting it again in {pause} s" for pause in ("0.1", "0.2", "0.4")
    ]
    dying._started -= 61  # it ran for a minute
    until(lambda: said.append(dying.keep_alive()) or said[-1])
    assert said[-1].endswith("in 0.1 s")


def test_a_part_that_ends_while_it_starts_is_told_with_its_last_words(make):
    broken = make("print('the disk is on fire'); raise SystemExit(1)")
    until(lambda: broken.pid is None)
    with pytest.raises(ClusterError, match="(?s)part ended while it started.*the disk is on fire"):
        broken.wait_until_ready(5)


def test_a_part_that_does_not_answer_is_told_with_its_last_words(tmp_path, reaper):
    code = f"print('still thinking', flush=True); {IDLE}"
    mute = Child(Part("mute", [sys.executable, "-c", code], is_ready=lambda _: False), tmp_path / "mute.log", reaper)
    mute.start()
    until(lambda: b"thinking" in mute.log.read_bytes())
    with pytest.raises(ClusterError, match="(?s)did not answer within 0.1 s.*still thinking"):
        mute.wait_until_ready(0.1)
    mute.stop()


def test_a_deaf_child_is_killed_after_its_grace_or_at_once_when_it_is_urgent(make):
    for grace, is_urgent in ((0.2, lambda: False), (600.0, lambda: True)):
        deaf = make(DEAF, grace=grace)
        until(lambda deaf=deaf: deaf.log.read_bytes().endswith(b"deaf\n"))
        pid = deaf.pid
        deaf.stop(is_urgent)
        assert not runs(pid)


def test_what_a_child_had_started_goes_with_it(make):
    parent = make(PARENT)
    until(lambda: psutil.Process(parent.pid).children() and b"deaf" in parent.log.read_bytes())
    grandchild = psutil.Process(parent.pid).children()[0].pid
    parent.stop()
    until(lambda: not runs(grandchild))


def test_a_log_that_grows_is_begun_anew_and_one_old_one_kept(make, monkeypatch):
    monkeypatch.setattr(child_module, "LOG_LIMIT", 100)
    talker = make("import sys, time\nfor n in range(10**6):\n print('line', n, flush=True); time.sleep(0.01)")
    until(lambda: talker.log.stat().st_size > 150)
    talker.trim_log()
    old = talker.log.with_suffix(".log.1")
    assert old.read_text().startswith("line 0\n")
    until(lambda: talker.log.stat().st_size > 0)
    assert not talker.log.read_bytes().startswith(b"\0")  # it goes on at the new beginning
    assert talker.log.stat().st_mode & 0o077 == 0


def test_a_killed_reaper_is_replaced_and_knows_all_children(make, reaper):
    first = make(IDLE)
    reaper._process.kill()
    reaper._process.wait()
    second = make(IDLE)
    assert first.pid and second.pid
    assert reaper._process.stdin
    reaper._process.stdin.close()  # as if the supervisor were gone: what is left is ended
    until(lambda: first.pid is None and second.pid is None)
    reaper._groups.clear()


ORDERLY = """
import signal, sys, time
def stop(*_):
    print(time.time(), flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
time.sleep(600)
"""
SUPERVISOR = """
import sys, time
from pathlib import Path
from graticule.local.child import Child, Part, Reaper
reaper, folder = Reaper(), Path(sys.argv[1])
for stage, code in enumerate(sys.argv[2:]):
    part = Part(f"s{stage}", [sys.executable, "-c", code], is_ready=lambda _: True, stage=stage)
    child = Child(part, folder / f"{stage}.log", reaper)
    child.start()
    print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nobody_not_even_deaf_grandchildren_and_servers_stop_last(tmp_path):
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path), ORDERLY, ORDERLY, PARENT],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout
    pids = [int(supervisor.stdout.readline()) for _ in range(3)]
    until(lambda: all(b"up" in (tmp_path / f"{n}.log").read_bytes() for n in (0, 1)))
    until(lambda: b"deaf" in (tmp_path / "2.log").read_bytes())
    pids += [process.pid for process in psutil.Process(pids[2]).children()]
    supervisor.kill()
    supervisor.communicate()
    until(lambda: not any(runs(pid) for pid in pids), 15)
    server, user = (float((tmp_path / f"{n}.log").read_text().split()[-1]) for n in (0, 1))
    assert user < server


@pytest.mark.parametrize("how", ["noted", "marked"])
def test_leftovers_of_an_earlier_start_are_ended_and_nobody_else(tmp_path, how):
    environment = {**os.environ, **({MARK: str(tmp_path)} if how == "marked" else {})}
    left = subprocess.Popen([sys.executable, "-c", IDLE], env=environment)
    other = subprocess.Popen([sys.executable, "-c", IDLE], env={**os.environ, MARK: str(tmp_path / "other")})
    if how == "noted":
        noted = note([left.pid])
        noted["children"].append({"pid": other.pid, "created": 1.0})  # the number now belongs to another process
        write_private(tmp_path / CHILDREN_FILE, json.dumps(noted))
    until(lambda: psutil.Process(other.pid).environ().get(MARK))
    assert end_leftovers(tmp_path) == 1
    assert not psutil.pid_exists(left.pid)
    left.wait()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_ports_are_kept_unless_taken():
    first = choose_ports(["a", "b"], {})
    assert choose_ports(["a", "b"], first) == first
    with socket.create_server(("127.0.0.1", first["a"] + GRPC_OFFSET)):
        moved = choose_ports(["a", "b"], first)
    assert moved["a"] != first["a"]
    assert moved["b"] == first["b"]


def test_every_certificate_is_new_and_can_be_loaded(tmp_path):
    certificate, key = self_signed("somebody")
    (tmp_path / "c").write_text(certificate)
    (tmp_path / "k").write_text(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    context.load_verify_locations(tmp_path / "c")
    assert context.get_ca_certs()[0]["subject"] == ((("commonName", "somebody"),),)
    assert self_signed("somebody") != (certificate, key)

"""The compose file: valid, closed where it can be, and its services do their work, run from the file itself."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from graticule.rights import Role
from graticule.settings import FILE_SUFFIX, Settings, env_name
from graticule.store import Store
from graticule.tokens import TokenStore
from tests.deploy import compose
from tests.deploy.compose import DEPLOY, MAIN, ROOT
from tests.deploy.conftest import Lab, run_setup, stopped, wait_for
from tests.deploy.test_rights import picture, refusals

FILES = [MAIN, *sorted(DEPLOY.glob("compose.*.yml"))]


def own_services() -> list[tuple[str, str]]:
    return [(path.name, name) for path in (MAIN, DEPLOY / "compose.worker.yml") for name in compose.services(path)]


def service_of(file: str, name: str) -> dict[str, Any]:
    return compose.services(MAIN if file == MAIN.name else DEPLOY / file)[name]


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_files_follow_the_compose_specification(path):
    vendored = pytest.importorskip("check_jsonschema.builtin_schemas", reason="check-jsonschema (extra dev) is missing")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(vendored.__file__).parent / "vendor" / "compose-spec.json").read_text())
    document = compose.read(path)
    assert list(jsonschema.validators.validator_for(schema)(schema).iter_errors(document)) == []


@pytest.mark.parametrize(("file", "name"), own_services())
def test_a_service_has_no_more_than_it_needs(file, name):
    service = service_of(file, name)
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and service.get("cap_add", []) == ["NET_BIND_SERVICE"] * (name == "caddy")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] and service["pids_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-\w+)?", service["image"]), "a pinned version"
    assert "privileged" not in service and "docker.sock" not in json.dumps(service)
    assert "healthcheck" in service or name == "init"
    assert str(service.get("user", "")) not in ("0", "root", "0:0")


def test_only_what_people_use_is_published_and_only_tls_to_everybody():
    published = {name: service["ports"] for name, service in compose.services(MAIN).items() if "ports" in service}
    assert published.keys() == {"gateway", "flower", "grafana", "caddy"}
    for name, ports in published.items():
        assert name == "caddy" or all(port.startswith("127.0.0.1:") for port in ports)
    for name in ("redis", "s3", "worker", "init", "prometheus"):
        assert compose.services(MAIN)[name]["networks"] == ["inside"]
    assert compose.read(MAIN)["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_everything_that_a_file_names_is_there(path, tmp_path):
    assert run_setup(tmp_path / "secrets", "--host", "lab.example.org").returncode == 0
    document = compose.read(path)
    for entry in document.get("configs", {}).values():
        assert (ROOT / entry["file"]).is_file()
    for entry in document.get("secrets", {}).values():
        assert (tmp_path / "secrets" / Path(entry["file"]).name).is_file(), entry
    main = compose.read(MAIN)
    known = {**main.get("secrets", {}), **document.get("secrets", {})}
    for name, service in document["services"].items():
        assert set(compose.secret_targets(service).values()) <= set(known), name
        target = (service.get("build") or {}).get("target")
        assert target is None or re.search(rf"^FROM .* AS {target}$", (DEPLOY / "Dockerfile").read_text(), re.M)
        for variable in service.get("environment", {}):
            if variable.startswith("GRATICULE_") and variable != "GRATICULE_HOST":
                field = variable.removesuffix(FILE_SUFFIX)
                assert field in {env_name(name) for name in Settings.model_fields}, variable


def test_every_service_gets_only_the_secrets_of_its_role():
    for name, service in compose.services(MAIN).items():
        roles = {secret.partition("_")[0] for secret in compose.secret_targets(service).values()}
        allowed = {"gateway": {"gateway"}, "worker": {"worker"}, "worker-gpu": {"worker"}, "flower": {"flower"}}
        if name in allowed:
            assert roles == allowed[name]


def test_the_stages_of_the_dockerfile_are_there_and_no_secret_reaches_the_builder():
    text = (DEPLOY / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.M))
    assert set(re.findall(r"COPY --from=(\S+)", text)) <= stages
    assert {"gateway", "worker", "worker-gpu", "flower", "minio", "seaweedfs"} <= stages
    extras = re.findall(r"deploy/install dependencies (\S+)", text)
    import tomllib

    assert set(extras) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "*" in ignored and not any(line.startswith("!deploy") and line != "!deploy/install" for line in ignored)
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().split()


# -- deploy/setup -----------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_setup_may_be_repeated(tmp_path):
    assert run_setup(tmp_path / "s", "--host", "lab.example.org").returncode == 0
    first = contents(tmp_path / "s")
    assert run_setup(tmp_path / "s").returncode == 0
    assert contents(tmp_path / "s") == first
    (tmp_path / "s" / "worker_redis_password").unlink()
    assert run_setup(tmp_path / "s").returncode == 0
    again = contents(tmp_path / "s")
    changed = {name for name in first if again[name] != first[name]}
    assert changed == {"worker_redis_password", "worker_redis_url", "worker.env", "users.acl"}


def test_two_servers_share_no_secret(tmp_path):
    for name in ("a", "b"):
        assert run_setup(tmp_path / name, "--host", "lab.example.org").returncode == 0
    one, other = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] == other[name]] == ["host"]
    values = [value for name, value in one.items() if name.endswith(("password", "secret_key", "token"))]
    assert len(set(values)) == len(values) and min(map(len, values)) >= 40


def test_secrets_are_closed_to_other_users(tmp_path):
    assert run_setup(tmp_path / "s", "--host", "10.1.2.3").returncode == 0
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    for name in ("ca.key", "agent.env", "worker.env"):
        assert (tmp_path / "s" / name).stat().st_mode & 0o777 == 0o400
    assert b"BEGIN" not in b"".join(value for name, value in contents(tmp_path / "s").items() if name.endswith("acl"))


def test_one_role_can_get_new_passwords(tmp_path):
    assert run_setup(tmp_path / "s").returncode == 0
    first = contents(tmp_path / "s")
    assert run_setup(tmp_path / "s", "--rotate", "agent").returncode == 0
    changed = {name for name, value in contents(tmp_path / "s").items() if first.get(name) != value}
    assert changed == {"agent_redis_password", "agent_redis_url", "agent_s3_secret_key", "users.acl", "s3.json"}


@pytest.mark.parametrize("options", [["--rotate", "nobody"], ["--host"], ["--host", "a b"], ["--unknown"]])
def test_setup_says_what_it_does_not_understand(tmp_path, options):
    done = run_setup(tmp_path / "s", *options)
    assert done.returncode == 2 and "deploy/setup:" in done.stderr
    assert not (tmp_path / "s" / "users.acl").exists()


# -- the services, run ------------------------------------------------------------------------------------------------


class Running:
    """The services of the compose file as processes."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.services = compose.services(MAIN, DEPLOY / "compose.seaweedfs.yml")
        from graticule.local.ports import choose_ports

        self.ports = choose_ports(("gateway", "metrics", "flower"), {})

    def place(self, name: str) -> compose.Place:
        moved = {
            "0.0.0.0": "127.0.0.1",
            "9100": str(self.ports["metrics"]),
            "5555": str(self.ports["flower"]),
        }
        return self.lab.place(name, {**moved} if name != "init" else {})

    def environment(self, name: str) -> dict[str, str]:
        found = compose.environment(self.services[name], self.place(name))
        return {**found, "GRATICULE_GATEWAY_PORT": str(self.ports["gateway"]), "GRATICULE_RECONCILE_INTERVAL": "1"}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        service, place = self.services[name], self.place(name)
        place.mount(service)
        with (place.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                compose.command(service, place), cwd=place.folder, env=self.environment(name), stdout=log, stderr=log
            )
        return self.processes[name]

    def log(self, name: str) -> str:
        return (self.place(name).folder / f"{name}.log").read_text(errors="replace")

    def health(self, name: str) -> subprocess.CompletedProcess[str]:
        place = self.place(name)
        return subprocess.run(
            compose.health_check(self.services[name], place),
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def wait_until_healthy(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while (done := self.health(name)).returncode != 0:
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, f"{done.stdout}{done.stderr}\n{self.log(name)}"

    def stop(self) -> None:
        for process in self.processes.values():
            stopped(process)


@pytest.fixture(scope="module")
def running(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(lab, tmp_path_factory.mktemp("running"))
    refusals(lab)
    try:
        assert made.start("init").wait(60) == 0, made.log("init")
        for name in ("gateway", "worker", "flower"):
            made.start(name)
        for name in ("gateway", "worker", "flower"):
            made.wait_until_healthy(name)
        yield made
    finally:
        made.stop()


def http(running: Running, path: str, token: str = "", data: bytes | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {running.lab.secret(token)}"} if token else {}
    url = f"http://127.0.0.1:{running.ports['gateway']}{path}"
    request = urllib.request.Request(url, data=data, headers={**headers, "Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request, timeout=70) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestServices:
    def test_a_picture_becomes_a_result_with_the_administrators_token(self, running):
        status, body = http(running, "/api/v1/jobs?model=brightness&wait=50", "admin_token", picture(107))
        assert status == 200, body
        assert json.loads(body)["jobs"][0]["status"] == "succeeded"

    def test_the_shipped_models_are_served(self, running):
        names = {model["name"] for model in json.loads(http(running, "/api/v1/models", "admin_token")[1])}
        assert {"brightness", "tile-defects"} <= names

    def test_without_a_token_there_is_nothing_and_the_monitors_only_reads(self, running):
        assert http(running, "/api/v1/jobs")[0] == 401
        assert http(running, "/metrics", "monitor_token")[0] == 200
        assert http(running, "/api/v1/jobs?model=brightness", "monitor_token", picture(108))[0] == 403

    def test_flower_sees_the_worker_and_wants_a_password(self, running):
        url = f"http://127.0.0.1:{running.ports['flower']}/api/workers?status=true"
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(url, timeout=10)
        refusal.value.close()
        assert refusal.value.code == 401
        login = base64.b64encode(running.lab.secret("flower_basic_auth").encode()).decode()
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})

        def workers() -> dict[str, bool]:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read())

        assert wait_for(lambda: any(workers().values()), 60, "Flower knows that the worker is alive")

    def test_nothing_that_the_services_tried_was_refused(self, running):
        assert refusals(running.lab) == []

    def test_init_may_run_again_and_makes_no_second_token(self, running):
        assert running.start("init").wait(60) == 0, running.log("init")
        tokens = TokenStore(Store(running.lab.settings(Role.ADMIN))).list()
        assert sorted(token.name for token in tokens if token.name in ("admin", "monitor")) == ["admin", "monitor"]

    def test_redis_health_check(self, running):
        service = running.services["redis"]
        place = running.lab.place("redis", {"redis-cli": f"{redis_cli()} -p {running.lab.ports['redis']}"})
        check = compose.health_check(service, place)
        assert subprocess.run(check, timeout=20).returncode == 0
        elsewhere = running.lab.place("redis", {"redis-cli": f"{redis_cli()} -p 1"})
        assert subprocess.run(compose.health_check(service, elsewhere), timeout=20).returncode != 0

    def test_prometheus_and_grafana_name_only_figures_that_there_are(self, running):
        with urllib.request.urlopen(f"http://127.0.0.1:{running.ports['metrics']}/metrics", timeout=10) as answer:
            exported = answer.read().decode() + http(running, "/metrics", "monitor_token")[1].decode()
        known = set(re.findall(r"^# TYPE (\S+)", exported, re.M)) | set(re.findall(r"^(graticule_\w+)", exported, re.M))
        text = (DEPLOY / "monitoring" / "graticule.json").read_text()
        text += (DEPLOY / "monitoring" / "alerts.yml").read_text()
        used = set(re.findall(r"\bgraticule_[a-z_]+", text))
        assert len(used) > 10 and used <= known, used - known

    def test_a_dead_worker_and_a_stopped_gateway_are_not_healthy(self, running):
        running.processes["worker"].kill()
        running.processes["worker"].wait()
        wait_for(lambda: running.health("worker").returncode != 0, 60, "the health check notices the dead worker")
        assert "No worker" in running.health("worker").stderr
        refusals(running.lab)
        status, body = http(running, "/api/v1/jobs?model=brightness", "admin_token", picture(109))
        assert status == 202, body
        job = f"/api/v1/jobs/{json.loads(body)['jobs'][0]['job_id']}"
        assert json.loads(http(running, f"{job}/cancel", "admin_token", b"")[1])["status"] == "failed"
        assert json.loads(http(running, f"{job}/retry", "admin_token", b"")[1])["status"] == "waiting"
        running.start("worker")
        running.wait_until_healthy("worker")
        ended = json.loads(http(running, f"{job}?wait=30", "admin_token")[1])
        assert ended["status"] == "succeeded", ended
        assert refusals(running.lab) == []
        stopped(running.processes["gateway"])
        assert running.health("gateway").returncode == 1
        running.start("gateway")
        running.wait_until_healthy("gateway")


def redis_cli() -> Path:
    from graticule.local import binaries

    return binaries.redis_server().with_name("redis-cli")


@pytest.mark.parametrize("name", ["prometheus", "alerts", "datasource", "dashboards"])
def test_the_monitoring_files_parse(name):
    assert yaml.safe_load((DEPLOY / "monitoring" / f"{name}.yml").read_text())


def test_the_dashboard_uses_the_provisioned_source():
    uid = yaml.safe_load((DEPLOY / "monitoring" / "datasource.yml").read_text())["datasources"][0]["uid"]
    panels = json.loads((DEPLOY / "monitoring" / "graticule.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {uid}
    assert len({panel["id"] for panel in panels}) == len(panels)

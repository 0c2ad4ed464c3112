"""Settings: one flat list, each with its environment variable, checked together when a process starts.

Where a value comes from, strongest first: an argument or command-line flag, the environment variable
`GRATICULE_<NAME>`, the file that `GRATICULE_<NAME>_FILE` names, the embedded cluster running in the data folder
(`cluster.json`), the default.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from graticule.errors import SettingsError

ENV_PREFIX = "GRATICULE_"
FILE_SUFFIX = "_FILE"
CLUSTER_FILE = "cluster.json"
"""Written into the data folder by a running embedded cluster: the addresses and credentials of its parts."""

Seconds = Annotated[float, Field(gt=0)]
NAMESPACE_PATTERN = r"^([a-z0-9][a-z0-9-]{0,20})?$"


def default_data_dir() -> Path:
    """The per-user folder of the embedded cluster."""
    return Path(platformdirs.user_data_dir("graticule", appauthor=False))


class Settings(BaseSettings):
    """What every part of graticule can be told from outside."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Folder of the embedded cluster: its data, logs, credentials and addresses.",
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"), description="URL of the Redis server that carries the queues."
    )
    s3_url: str = Field(
        default="http://127.0.0.1:9000",
        pattern=r"^https?://[^/]+/?$",
        description="URL of the S3 object store. https:// verifies the server's certificate.",
    )
    s3_access_key: str = Field(default="", description="Access key of the object store. Empty: anonymous.")
    s3_secret_key: SecretStr = Field(default=SecretStr(""), description="Secret key of the object store.")
    s3_region: str = Field(default="us-east-1", description="Region name that S3 requests are signed for.")
    namespace: str = Field(
        default="",
        pattern=NAMESPACE_PATTERN,
        description="Prefix of bucket names and Redis keys, so that several clusters can share one store and"
        " one Redis. Empty: none.",
    )
    max_image_bytes: int = Field(
        default=2 * 1024**3,
        gt=0,
        description="Largest accepted image file, in bytes (checked before anything is read).",
    )
    max_pixels: int = Field(
        default=100_000_000,
        gt=0,
        description="Largest accepted image, in pixels (checked before anything is decoded).",
    )
    max_frames: int = Field(
        default=100_000,
        gt=0,
        description="Most frames in one file (a stack, a movie): each becomes a job.",
    )
    image_cache: int = Field(
        default=4096,
        ge=0,
        description="Disk space for files of several frames that a worker process keeps, in MiB, so that it fetches"
        " such a file once and not once for each frame. The file in use is kept whatever its size. 0: only that.",
    )
    task_deadline: Seconds = Field(
        default=50,
        description="Seconds for which a worker keeps trying a job while the store or Redis is away, before the job"
        " goes back to its queue.",
    )
    step_deadline: Seconds = Field(
        default=120,
        description="Longest time that one step in native code may take (decoding, one run of a model, the analysis)."
        " A worker that is stuck for longer replaces itself, and its jobs return to their queue.",
    )
    visibility_timeout: float = Field(
        default=20,
        ge=6,
        description="Seconds after which the jobs of a worker that gives no sign of life any more are given to others."
        " A live worker says every two seconds that it still holds its jobs.",
    )
    reconcile_interval: Seconds = Field(
        default=10, description="Seconds between two looks for jobs whose message was lost."
    )
    store_timeout: Seconds = Field(default=30, description="Seconds to wait for an answer of the object store.")
    worker_processes: int = Field(
        default=1,
        gt=0,
        le=256,
        description="Task processes of one worker. More than one share one engine process; they pay with a device so"
        " fast that one interpreter cannot feed it.",
    )
    worker_threads: int = Field(
        default=8, gt=0, le=256, description="Jobs that one task process carries at the same time (threads)."
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="ONNX execution provider. auto: CUDA when it works, else CPU."
    )
    inference_threads: int = Field(
        default=0, ge=0, description="CPU threads of one stream of inference. 0: measured when a model is loaded."
    )
    inference_streams: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Pictures that a model works on at the same time. 0: measured when a model is loaded on a CPU, one"
        " on other devices.",
    )
    model_memory: int = Field(
        default=0,
        ge=0,
        description="Memory for loaded models in MiB (estimated); the model that was used least lately is unloaded"
        " when more are served than fit. 0: no limit.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Address on which a worker answers Prometheus. 0.0.0.0: every one."
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Port on which a worker answers Prometheus. 0: it does not."
    )
    gateway_host: str = Field(default="127.0.0.1", description="Address that the gateway listens on.")
    gateway_port: int = Field(default=8080, ge=0, le=65535, description="Port of the gateway. 0: any free one.")
    gateway_auth: Literal["auto", "on", "off"] = Field(
        default="auto", description="Whether the gateway wants a token. auto: unless it listens on loopback only."
    )
    gateway_hosts: str = Field(
        default="",
        description="Host names by which browsers may call the gateway, comma-separated. Empty: on loopback only"
        " localhost and 127.0.0.1, elsewhere any.",
    )
    gateway_origins: str = Field(
        default="", description="Origins whose pages may call the gateway (CORS), comma-separated. Empty: none."
    )
    gateway_max_body: int = Field(default=512 * 1024**2, gt=0, description="Largest accepted request body, in bytes.")
    gateway_max_files: int = Field(default=100, gt=0, description="Most files in one request.")
    gateway_max_decoded: int = Field(
        default=1024**3, gt=0, description="Largest picture that the gateway takes or draws, in bytes once decoded."
    )
    gateway_max_queue: int = Field(
        default=10_000, gt=0, description="Jobs that may wait in one queue before the gateway refuses more (503)."
    )
    gateway_max_wait: Seconds = Field(default=60, description="Longest time that a request may wait for its result, s.")
    gateway_requests_per_minute: int = Field(
        default=6000, ge=0, description="Requests that one token may make in a minute before 429. 0: any number."
    )
    gateway_body_timeout: Seconds = Field(
        default=20, description="Seconds without a byte of the request after which a client is given up."
    )
    gateway_session_hours: Seconds = Field(default=12, description="Hours after which a browser has to log in again.")
    gateway_analyze_model: str = Field(default="tile-defects", description="Model behind POST /analyze.")
    gateway_status_stream: str = Field(
        default="", description="Stream that /api/status and /api/data show. Empty: the one with the newest result."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then files, then the embedded cluster of the data folder."""
        return init_settings, env_settings, ValueFiles(settings_cls), RunningCluster(settings_cls, init_settings)

    @cached_property
    def key_prefix(self) -> str:
        """What every Redis key begins with."""
        return f"{self.namespace}:" if self.namespace else ""

    def bucket(self, purpose: Literal["images", "jobs", "results", "models", "access"]) -> str:
        """Name of the bucket that serves `purpose`."""
        return f"{self.namespace}-{purpose}" if self.namespace else purpose

    def to_env(self) -> dict[str, str]:
        """These settings as environment variables, for a child process. Holds secrets."""
        return {env_name(name): _plain(getattr(self, name)) for name in type(self).model_fields}


class ValueFiles(PydanticBaseSettingsSource):
    """Reads values from the files that `GRATICULE_<NAME>_FILE` names: anyone who may look at a process or a container
    sees its environment, but not its files."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ANN401 (base class)
        """The contents of a setting's file; None without one. Raises SettingsError."""
        variable = env_name(field_name) + FILE_SUFFIX
        path = os.environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{variable}: {path} cannot be read ({getattr(error, 'strerror', None) or error}).",
                advice="Nothing was started.",
            ) from None

    def __call__(self) -> dict[str, Any]:
        """Every setting that has a file."""
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class RunningCluster(PydanticBaseSettingsSource):
    """Reads the addresses that a running embedded cluster left in the data folder."""

    def __init__(self, settings_cls: type[BaseSettings], init: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        given = init().get("data_dir") or os.environ.get(env_name("data_dir"))
        self.path = Path(given or default_data_dir()) / CLUSTER_FILE

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ANN401 (base class)
        """Not used: the whole file is taken at once by `__call__`."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The `settings` object of `cluster.json`, or nothing when no cluster was started there."""
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8"))["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def env_name(field: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + field.upper()


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401 (the fields of Settings)
    """Read the settings; `overrides` that are None count as not given.

    Raises SettingsError that lists everything that is wrong, not only the first mistake.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(_all_mistakes(error), advice="Nothing was started.") from None


def describe_settings() -> list[tuple[str, str, str]]:
    """(environment variable, default, description) of every setting, in order, for help and documentation."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "(per user)" if name == "data_dir" else _plain(field.default)
        rows.append((env_name(name), default, field.description or ""))
    return rows


def _all_mistakes(error: ValidationError) -> str:
    lines = []
    for mistake in error.errors(include_url=False):
        where = ".".join(str(part) for part in mistake["loc"])
        found = f", found {mistake['input']!r}" if where and "key" not in where else ""
        lines.append(f"{env_name(where) + ': ' if where else ''}{mistake['msg']}{found}")
    return f"{len(lines)} setting(s) are wrong: " + "; ".join(lines) + "."


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return f"{value:g}" if isinstance(value, float) else str(value)

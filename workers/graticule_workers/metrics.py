"""What a worker tells Prometheus. No label holds a job: the number of series stays small for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from graticule.jobs import Job, model_name
from graticule.results import Timings
from graticule_workers.engine.pool import ModelState

_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one worker process. Thread-safe."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._jobs = Counter(
            "graticule_jobs", "Jobs that ended, by outcome.", ["model", "lane", "outcome"], registry=self.registry
        )
        self._duplicates = Counter(
            "graticule_duplicate_deliveries",
            "Jobs that were delivered again after they had ended.",
            registry=self.registry,
        )
        self._queued = Histogram(
            "graticule_queued_seconds",
            "From submission to the start of work.",
            ["model", "lane"],
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200),
            registry=self.registry,
        )
        self._stages = Histogram(
            "graticule_stage_seconds",
            "Time of each stage of a job.",
            ["model", "stage"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "graticule_batch_size",
            "Pictures in one run of a model.",
            ["model"],
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self._runs = Histogram(
            "graticule_run_seconds",
            "Time of one run of a model.",
            ["model"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self._waiting = Gauge(
            "graticule_queue_depth",
            "Messages that wait in a queue.",
            ["queue"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._memory = Gauge(
            "graticule_model_memory_bytes",
            "Memory of a loaded model, estimated.",
            ["model", "provider"],
            multiprocess_mode="liveall",
            registry=self.registry,
        )
        self._shown: set[tuple[str, str]] = set()

    def serve(self, host: str, port: int) -> None:
        """Answer Prometheus on an address from now on."""
        start_http_server(port, host, self.registry)

    def job_ended(self, job: Job, outcome: str, timings: Timings | None = None) -> None:
        """Count a job, and its times where it succeeded."""
        model, lane = model_name(job.model), job.lane.value
        self._jobs.labels(model, lane, outcome).inc()
        if timings is None:
            return
        stages = timings.model_dump()
        self._queued.labels(model, lane).observe(stages.pop("queued"))
        for stage, seconds in stages.items():
            self._stages.labels(model, stage).observe(seconds)

    def duplicate(self) -> None:
        """Count a delivery that brought a job which had ended."""
        self._duplicates.inc()

    def ran(self, reference: str, images: int, seconds: float) -> None:
        """Count a run of a model, name@version."""
        self._batches.labels(reference).observe(images)
        self._runs.labels(reference).observe(seconds)

    def waiting(self, depths: Mapping[str, int]) -> None:
        """Show how many messages wait, by queue."""
        for queue, depth in depths.items():
            self._waiting.labels(queue).set(depth)

    def loaded(self, models: Iterable[ModelState]) -> None:
        """Show the models that are loaded, and no others."""
        now = {(model.reference, model.provider): model.memory for model in models}
        for labels in self._shown - set(now):
            self._memory.remove(*labels)
        for labels, memory in now.items():
            self._memory.labels(*labels).set(memory)
        self._shown = set(now)

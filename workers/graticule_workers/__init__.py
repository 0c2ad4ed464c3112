"""The worker: takes jobs from the queues, runs ONNX models and writes results back to object storage."""

import graticule  # noqa: F401  (before onnxruntime: it switches the telemetry off)

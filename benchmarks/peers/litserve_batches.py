"""LitServe with batching, as its documentation shows it: python -m benchmarks.peers.litserve_batches PORT WORKERS."""

from __future__ import annotations

import sys

import litserve  # pyright: ignore[reportMissingImports]  (extra `bench`)
import numpy as np

from benchmarks.peers.plain import Array, PlainModel, Prepared
from graticule_workers.engine.session import usable_cores

MOST_IN_A_BATCH = 8
BATCH_WAIT = 0.002
"""Seconds to wait for a batch to fill. With 0 its worker asks for requests in a busy loop, which costs a core."""

Prepareds = list[Prepared]


class Segmenter(litserve.LitAPI):
    """Decoding and measuring picture by picture, the model on the whole batch."""

    threads = 1
    """CPU threads of each inference process."""

    def setup(self, device: str) -> None:
        """Load the model in an inference process."""
        self.model = PlainModel(threads=self.threads)

    def decode_request(self, request):  # noqa: ANN001, ANN201 (LitServe makes the route's types of annotations)
        """Read the uploaded file."""
        return self.model.prepare(request["request"].file.read())

    def batch(self, inputs: Prepareds) -> tuple[Prepareds, Array]:
        """Pictures of one size."""
        return inputs, np.stack([prepared.tensor for prepared in inputs])

    def predict(self, x: tuple[Prepareds, Array]) -> tuple[Prepareds, Array]:
        """Run the model."""
        return x[0], self.model.infer(x[1])

    def unbatch(self, output: tuple[Prepareds, Array]) -> list[tuple[Prepared, Array]]:
        """Each picture with its output."""
        return list(zip(*output, strict=True))

    def encode_response(self, output):  # noqa: ANN001, ANN201
        """Measure."""
        return self.model.finish(*output)


def main() -> None:
    """Serve until told to stop."""
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    api = Segmenter(max_batch_size=MOST_IN_A_BATCH, batch_timeout=BATCH_WAIT)
    api.threads = max(1, usable_cores() // workers)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()

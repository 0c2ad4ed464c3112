"""Clients that send pictures, each the next one when it has its answer; a process of its own, as light as it can be.

    python -m benchmarks.peers.load --pictures FOLDER --clients 8 --seconds 6 --url http://127.0.0.1:1234/predict
    python -m benchmarks.peers.load --pictures FOLDER --clients 8 --seconds 6 --model tile-defects

The second form goes through `graticule.Client` to the cluster that the environment names. Answers are read to their
last byte, mask included. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from graticule.client import Client

_BOUNDARY = "benchmark-4f1c2a"
FORM_HEADERS = {
    "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
    # Compressing the answer would be work that nobody asked for.
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True)
class Load:
    """What the clients saw."""

    seconds: float
    """Length of the window."""
    latencies: list[float]
    """Seconds from sending to the last byte of the answer, of each picture answered within the window."""
    answered: int
    """All pictures, those included that were answered after the window."""
    cpu: float
    """CPU seconds of this process."""


def form(picture: bytes) -> bytes:
    """A form with one file, `request`, as a browser sends it."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="request"; filename="picture.png"\r\n'
    return head.encode() + b"Content-Type: image/png\r\n\r\n" + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()


def main() -> None:
    """Send for the given time and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of image files")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--url", help="where to post forms to")
    target.add_argument("--model", help="model of the cluster that the environment names")
    options = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted(options.pictures.iterdir())]
    if options.url:
        load = asyncio.run(_over_http(options.url, pictures, options.clients, options.seconds))
    else:
        load = _through_client(options.model, pictures, options.clients, options.seconds)
    print(json.dumps(asdict(load)))


class _Window:
    """Collects the latencies within the time of the measurement."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._latencies: list[float] = []
        self._answered = 0
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    @property
    def is_open(self) -> bool:
        return time.perf_counter() - self._began < self._seconds

    def answered(self, sent: float) -> None:
        """An answer to what was sent at `sent`, by `time.perf_counter`, has come."""
        self._answered += 1
        if self.is_open:
            self._latencies.append(time.perf_counter() - sent)

    def close(self) -> Load:
        return Load(self._seconds, self._latencies, self._answered, time.process_time() - self._cpu)


async def _over_http(url: str, pictures: list[bytes], clients: int, seconds: float) -> Load:
    import aiohttp  # pyright: ignore[reportMissingImports]  (extra `bench`)

    forms = [form(picture) for picture in pictures]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        window = _Window(seconds)

        async def send_on(first: int) -> None:
            for body in itertools.cycle(forms[first:] + forms[:first]):
                sent = time.perf_counter()
                async with session.post(url, data=body, headers=FORM_HEADERS) as answer:
                    answer.raise_for_status()
                    await answer.read()
                window.answered(sent)
                if not window.is_open:
                    return

        await asyncio.gather(*(send_on(index % len(forms)) for index in range(clients)))
        return window.close()


def _through_client(model: str, pictures: list[bytes], clients: int, seconds: float) -> Load:
    client, once = Client(), secrets.token_hex(4)
    window = _Window(seconds)

    def send_on(first: int) -> None:
        for number in itertools.count(first):
            sent = time.perf_counter()
            # By its stream each job is a new one, though pictures repeat.
            stream = f"{once}/{first}/{number}"
            handle = client.submit(pictures[number % len(pictures)], model, filename="picture.png", stream=stream)
            client.store.get("results", handle.result().artifacts["mask"].key)
            window.answered(sent)
            if not window.is_open:
                return

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(send_on, index) for index in range(clients)]:
            done.result()
    return window.close()


if __name__ == "__main__":
    main()

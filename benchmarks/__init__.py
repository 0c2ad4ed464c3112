"""Measurements. Run them while nothing else runs: `make bench`, `make bench-queue`, `make bench-peers`.

Each question has a file, with one function that takes settings and options and gives figures: `throughput`, `peers`,
`latency`, `queue`, `backlog`, `memory`. docs/benchmarks.md says what each figure means.
"""

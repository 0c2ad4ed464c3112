"""The watcher: every picture that is written into a folder becomes a job, once.

Runs on the instrument's computer: needs `watchfiles` beside graticule itself, and no model.
"""

from graticule_producers.watcher.options import WatchOptions, WatchSummary
from graticule_producers.watcher.watcher import watch

__all__ = ["WatchOptions", "WatchSummary", "watch"]

"""What an idle cluster costs."""

from __future__ import annotations

import time

from graticule.local.status import collect_status
from graticule.settings import Settings


def memory(settings: Settings) -> dict[str, float]:
    """Resident memory of each idle part, MB, five seconds after the start."""
    time.sleep(5)
    return {f"idle {part.name} (MB)": part.memory_mb or 0.0 for part in collect_status(settings).parts}

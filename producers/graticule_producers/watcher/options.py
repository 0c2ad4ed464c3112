"""What a watcher is told, and what it has to say in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from graticule.jobs import Lane, ModelReference
from graticule.selection import Selection
from graticule.store import printable

Seconds = Annotated[float, Field(gt=0)]


class WatchOptions(BaseModel):
    """How a folder is watched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(description="The folder.")
    model: ModelReference = Field(description="`name` (the version in production) or `name@version`.")
    include: tuple[str, ...] = Field(default=(), description="Take only files like these; see `graticule.selection`.")
    exclude: tuple[str, ...] = Field(default=(), description="Leave out files like these.")
    existing: bool = Field(
        default=False,
        description="Also take what is there when the folder is watched for the first time. Later starts always take"
        " what arrived in between.",
    )
    once: bool = Field(default=False, description="Take what is there, then stop. Implies `existing`.")
    limit: int | None = Field(default=None, gt=0, description="Stop after this many pictures were submitted.")
    duration: Seconds | None = Field(default=None, description="Stop after this many seconds.")
    recursive: bool = Field(default=True, description="Watch sub-folders too.")
    polling: bool = Field(default=False, description="Look regularly instead of waiting for events: network shares.")
    rescan: Seconds = Field(default=30, description="Seconds between two looks at the whole folder.")
    settle: Seconds = Field(
        default=10,
        description="Seconds after which a file that stands still is submitted although it cannot be read to its end,"
        " so that its job can say what is wrong with it.",
    )
    stream: str | None = Field(default=None, description="Name of the series. None: the folder's path.")
    lane: Lane = Field(default=Lane.BULK, description="interactive goes before bulk.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Overrides of the model's post-processing.")
    journal: Path | None = Field(default=None, description="File of the journal. None: in the user's state folder.")
    write_back: bool = Field(
        default=False, description="Write masks and records into the folder `masks` below the watched one."
    )
    legacy_fraction: bool = Field(
        default=False, description="Records also hold `void_frac_legacy`, the older tool's figure."
    )
    threads: int = Field(default=4, gt=0, le=64, description="Pictures that are sent at the same time.")

    @property
    def root(self) -> Path:
        """The folder as an absolute path, spelled the way the user did."""
        return self.folder.absolute()

    @property
    def stream_name(self) -> str:
        """Name of the series that every job belongs to."""
        return self.stream if self.stream is not None else printable(str(self.root))

    @property
    def selection(self) -> Selection:
        """Which files are pictures."""
        return Selection(self.include, self.exclude)


@dataclass
class WatchSummary:
    """What became of the files."""

    submitted: int = 0
    """Pictures that are in the store and waiting for a worker, or done."""
    resent: int = 0
    """Of these: begun by an earlier run that was killed, and sent again as the same jobs."""
    waiting: int = 0
    """Not complete, or not sent yet. They are taken up at the next start."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files that could not be read: why, by path below the folder."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Files that the selection leaves out: how many, by reason."""
    seen_before: int = 0
    """Files that were there when the folder was watched for the first time, and were not asked for."""
    returned: int = 0
    """Results that were written back."""
    due: int = 0
    """Results that are still to come; the next run writes them back."""
    known: int = 0
    """Pictures that earlier runs submitted."""
    interrupted: bool = False
    """Whether the watcher was told to stop before it was through."""

    @property
    def complete(self) -> bool:
        """Whether every picture was submitted."""
        return not self.waiting and not self.unreadable

    def sentence(self) -> str:
        """The summary in words."""
        parts = [f"{self.submitted} submitted" + (f" ({self.resent} of them again)" if self.resent else "")]
        parts += [f"{self.waiting} waiting", f"{len(self.unreadable)} unreadable"]
        parts += [f"{count} left out ({reason})" for reason, count in sorted(self.left_out.items())]
        parts += (
            [f"{self.returned} results written back, {self.due} still to come"] if self.returned or self.due else []
        )
        parts += [f"{self.known} submitted by earlier runs"] if self.known else []
        parts += [f"{self.seen_before} there before (not asked for: --existing)"] if self.seen_before else []
        return ", ".join(parts) + "."

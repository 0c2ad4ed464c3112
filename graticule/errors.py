"""Every error that graticule raises on purpose, in one tree.

::

    GraticuleError
    ├── BadInput                  the data or the request is at fault: fails at once, never retried
    │   ├── UnreadableImage       the bytes are not an image of a known format
    │   ├── ImageTooLarge         more bytes or pixels than the limits allow
    │   ├── UnknownModel          no such model, or no such version of it
    │   ├── UnknownDeadLetter     no such dead letter
    │   ├── UnfitImage            a good image that this model cannot take
    │   ├── UnfitTensors          tensors that this model cannot take, or a damaged file of them
    │   ├── OtherKind             a result of another kind than was asked for
    │   ├── InvalidParameters     parameters that the model's post-processing does not have
    │   ├── InvalidManifest       a model folder that does not keep its promises
    │   ├── UnreadableModel       a trained model's file that is damaged, unsafe, or of no known kind
    │   └── ConversionFailed      a trained model that cannot be said in ONNX
    ├── Trouble                   something around us is at fault: retried with backoff
    │   ├── StoreUnavailable
    │   ├── BrokerUnavailable
    │   ├── Corrupted             bytes differ from their SHA-256
    │   ├── InferenceFailed       the model could not be run
    │   │   └── OutOfMemory       not enough memory for one run of the model
    │   └── EngineLost            the process that runs the models died, perhaps of this very job
    ├── ParityFailed              the converted model does not answer as the trained one
    ├── PoisonJob                 a job that killed its worker again and again: it goes to the dead letters
    ├── DeviceUnavailable         the execution provider that was asked for does not work: the worker refuses to start
    ├── SourceUnreadable          a file on this machine cannot be read (gone, no permission)
    ├── NotFound                  no such object
    ├── JobFailed                 the job that was waited for ended in `failed`
    ├── ResultTimeout             the job that was waited for is not ready yet
    ├── SettingsError             the settings do not hold together
    ├── MissingPart               a part of graticule is not installed
    └── ClusterError              the embedded cluster cannot do what was asked

A message says what was expected, what was found, what happened to the data and what to do next.
"""

from __future__ import annotations


class GraticuleError(Exception):
    """Something went wrong in graticule."""

    def __init__(self, summary: str = "", *, data: str = "", advice: str = "") -> None:
        self.summary = summary or (type(self).__doc__ or "").splitlines()[0]
        self.data = data
        self.advice = advice
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """The whole message: what happened, what became of the data, what to do."""
        return " ".join(part for part in (self.summary, self.data, self.advice) if part)

    @property
    def kind(self) -> str:
        """The class name as it stands in `failure.json`."""
        return type(self).__name__


class BadInput(GraticuleError):
    """The data or the request cannot be processed."""


class UnreadableImage(BadInput):
    """The bytes are not an image of a known format."""


class ImageTooLarge(BadInput):
    """The image is larger than the limits allow."""


class UnknownModel(BadInput):
    """There is no such model."""


class UnknownDeadLetter(BadInput):
    """There is no such dead letter."""


class UnfitImage(BadInput):
    """The model cannot take this image."""


class UnfitTensors(BadInput):
    """The model cannot take these tensors."""


class OtherKind(BadInput):
    """The result is not of the kind that was asked for."""


class InvalidParameters(BadInput):
    """The parameters do not fit the model."""


class InvalidManifest(BadInput):
    """The model folder does not keep what its manifest promises."""


class UnreadableModel(BadInput):
    """The trained model cannot be read."""


class ConversionFailed(BadInput):
    """The trained model cannot be converted to ONNX."""


class Trouble(GraticuleError):
    """Something around the job is unavailable; it is tried again."""


class StoreUnavailable(Trouble):
    """The object store does not answer."""


class BrokerUnavailable(Trouble):
    """Redis does not answer."""


class Corrupted(Trouble):
    """The bytes read from the store differ from their SHA-256."""


class InferenceFailed(Trouble):
    """The model could not be run."""


class OutOfMemory(InferenceFailed):
    """There is not enough memory for one run of the model."""


class EngineLost(Trouble):
    """The process that runs the models died."""

    def __init__(self, summary: str = "", *, started: bool = False) -> None:
        """`started`: whether it had begun to run this very job."""
        self.started = started
        super().__init__(summary)


class ParityFailed(GraticuleError):
    """The converted model does not answer as the trained one."""


class PoisonJob(GraticuleError):
    """The job killed its worker again and again."""


class DeviceUnavailable(GraticuleError):
    """The execution provider does not work on this machine."""


class SourceUnreadable(GraticuleError):
    """A file on this machine cannot be read."""


class NotFound(GraticuleError):
    """There is no such object in the store."""


class JobFailed(GraticuleError):
    """The job ended in `failed`."""


class ResultTimeout(GraticuleError):
    """The job is not finished yet."""


class SettingsError(GraticuleError):
    """The settings do not hold together."""


class MissingPart(GraticuleError):
    """A part of graticule is not installed."""

    def __init__(self, part: str, extra: str, missing: str) -> None:
        super().__init__(
            f"{part} needs the Python package {missing!r}, which is not installed.",
            advice=f'Install it with: pip install "graticule[{extra}]"',
        )


class ClusterError(GraticuleError):
    """The embedded cluster cannot do what was asked."""

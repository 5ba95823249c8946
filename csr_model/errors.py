"""Every error that this package raises on purpose.

CSRModelError
├── InvalidVector          a row of embeddings that has no code
├── InvalidK               a number of active latents outside the adapter's range
├── InvalidConfig          a setting out of range, or settings that contradict each other
├── InvalidTrainingData    embeddings or labels that cannot be learned from
├── ResumeMismatch         a checkpoint of another run
├── TrainingDiverged       the loss is no longer finite
├── ExportRefused          what cannot be written in another library's format
├── ImportRefused          what another library wrote and an adapter cannot be made of
└── ArtifactError          a stored adapter that cannot be used
    ├── ArtifactExists     the folder to write is already there
    ├── ArtifactTooNew     written by a newer release
    └── ArtifactCorrupt    incomplete, altered, or encoding differently from when it was saved

Messages name the field and the limit, and are safe to show to a caller.
"""


class CSRModelError(Exception):
    """Base of all errors of this package."""


class InvalidVector(CSRModelError, ValueError):
    """A row of embeddings is not finite, has no direction, or has the wrong dimension."""


class InvalidK(CSRModelError, ValueError):
    """k is outside 1 … the adapter's k_limit."""


class InvalidConfig(CSRModelError, ValueError):
    """A training setting is out of range or contradicts another one."""


class InvalidTrainingData(CSRModelError, ValueError):
    """The embeddings or labels cannot be learned from."""


class ResumeMismatch(CSRModelError):
    """A training state belongs to other data or to another configuration."""


class TrainingDiverged(CSRModelError):
    """The loss or a gradient became NaN or infinite."""


class ExportRefused(CSRModelError):
    """The adapter, the backbone or the target folder does not allow an export that encodes alike."""


class ImportRefused(CSRModelError):
    """No adapter can be made of a foreign model: incomplete, damaged, unsafe, or of another architecture."""


class ArtifactError(CSRModelError):
    """A stored adapter cannot be read or written."""


class ArtifactExists(ArtifactError):
    """The target folder exists; artifacts are written once and never changed."""


class ArtifactTooNew(ArtifactError):
    """The artifact's format version is newer than this release reads."""


class ArtifactCorrupt(ArtifactError):
    """The artifact is incomplete, was altered, or does not reproduce its reference codes."""

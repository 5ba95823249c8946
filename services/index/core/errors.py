"""What the index refuses. Every message names the field and the limit; the index is unchanged after any of them.

CoreError
├── InvalidIndex          hidden_dim, k_max or declared fields that no index can have
├── InvalidCode           latents or weights that no model could have made
├── InvalidId             ids empty, too long, not text, or twice in one batch
├── InvalidRows           ids, codes, fields and partitions that do not belong together
├── InvalidField          a field value of another type than declared
├── UnknownField          a field that was never declared
├── InvalidFilter         a filter that contradicts itself or the declared types
├── InvalidSearch         top_n, k, k_query, k_docs, min_score, partitions, threads or kernel out of range
├── InvalidState          a state of another index, or none
├── InvalidPositions      log positions that no snapshot can keep
├── SnapshotExists        a snapshot would overwrite something
├── CorruptSnapshot       files missing, truncated or altered
└── UnsupportedSnapshot   written in a newer format
"""


class CoreError(Exception):
    """An error of the index that a caller may see."""


class InvalidIndex(CoreError):
    """hidden_dim, k_max or declared fields that no index can have."""


class InvalidCode(CoreError):
    """Latents or weights that no model could have made."""


class InvalidId(CoreError):
    """An id that is empty, too long, not text, or given twice in one batch."""


class InvalidRows(CoreError):
    """Ids, codes, fields and partitions that do not belong together."""


class InvalidField(CoreError):
    """A field value of another type than declared."""


class UnknownField(CoreError):
    """A field that was never declared."""


class InvalidFilter(CoreError):
    """A filter that contradicts itself or the declared types."""


class InvalidSearch(CoreError):
    """Search options out of range."""


class InvalidState(CoreError):
    """A state of another index, or none."""


class InvalidPositions(CoreError):
    """Log positions that no snapshot can keep."""


class SnapshotExists(CoreError):
    """A snapshot would overwrite something."""


class CorruptSnapshot(CoreError):
    """Snapshot files are missing, truncated or altered."""


class UnsupportedSnapshot(CoreError):
    """The snapshot was written in a newer format."""

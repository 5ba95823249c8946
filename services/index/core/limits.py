"""What the index can hold and answer. The public API's limits (services.runtime.limits) never exceed these."""

from typing import Final

HIDDEN_DIM_MAX: Final = 65_536
"""Latents are stored as u16."""
K_MAX: Final = 256
"""Active latents of a stored code, and of a query."""
TOP_N_MAX: Final = 1_000
SCAN_MAX: Final = 1_000_000
ID_BYTES_MAX: Final = 128
PARTITION_MAX: Final = 65_535
"""Partitions are stored as u16."""
LSN_MAX: Final = (1 << 63) - 1
VERSION_MAX: Final = (1 << 63) - 1
FILTER_DEPTH_MAX: Final = 32
"""Nesting of a filter, so that a hostile one cannot exhaust the stack."""

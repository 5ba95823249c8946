"""Which latents have died: the only statistics that training keeps. Encoding never touches them."""

import torch
from torch import Tensor

from csr_model.codes import Codes
from csr_model.collectives import sum_over_ranks, world_size


class DeadLatents:
    """Counts, for each latent, the training rows since it last fired.

    Rows are counted over all ranks and a latent has fired if it did on any, so the counts agree on
    every rank and a batch size does not change their meaning.

    Args:
        hidden_dim: Number of latents.
        dead_after_rows: A latent is dead when more rows than this have passed.
        device: Where the counts live.
    """

    def __init__(self, hidden_dim: int, dead_after_rows: int, device: torch.device | str = "cpu") -> None:
        self.rows_since_fired = torch.zeros(hidden_dim, dtype=torch.int64, device=device)
        self.dead_after_rows = dead_after_rows
        self._rows_seen = 0

    def mask(self) -> Tensor | None:
        """Return [h] bool, True where dead; None when it is already known that no latent is."""
        if self._rows_seen <= self.dead_after_rows:
            return None
        dead = self.rows_since_fired > self.dead_after_rows
        # Asking an accelerator would make the host wait for it, which costs more than an empty loss.
        return None if dead.device.type == "cpu" and not bool(dead.any()) else dead

    def advance(self, codes: Codes[Tensor]) -> None:
        """Count one optimizer step, given this rank's codes at the largest k. Call once a step."""
        fired = torch.zeros(len(self.rows_since_fired), device=codes.latents.device)
        fired.index_add_(0, codes.latents.reshape(-1), (codes.weights > 0).reshape(-1).float())
        rows = len(codes.latents) * world_size()
        self.rows_since_fired += rows
        self.rows_since_fired.masked_fill_(sum_over_ranks(fired) > 0, 0)
        self._rows_seen += rows

    def forget(self, latents: Tensor) -> None:
        """Count these latents [m] from 0 again."""
        self.rows_since_fired[latents] = 0

    def share(self) -> Tensor:
        """Return the dead share of all latents, a scalar tensor within 0 … 1."""
        return (self.rows_since_fired > self.dead_after_rows).float().mean()

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what `load_state_dict` needs to continue counting."""
        return {"rows_since_fired": self.rows_since_fired.clone(), "rows_seen": self._rows_seen}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Continue from a stored state."""
        self.rows_since_fired.copy_(torch.as_tensor(state["rows_since_fired"]))
        self._rows_seen = int(state["rows_seen"])

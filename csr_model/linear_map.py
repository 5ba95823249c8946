"""The optional first stage: a linear map of the embeddings that learns labels or pairs before anything is sparse.

    M = I + A, A = 0 at the start, minimises the contrast of M u, u = x/‖x‖, by cosine

Dense contrast is easy to learn and reconstruction then keeps what it found; the map costs the encoder one
product of [d, d]. Our own addition, see docs/adapter.md for what it gains.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_model.batches import Pairs, Sampler, StepRows
from csr_model.collectives import gather_rows, rank, world_size
from csr_model.config import CSRConfig
from csr_model.errors import InvalidTrainingData, TrainingDiverged
from csr_model.losses.contrastive import label_loss, pair_loss
from csr_model.losses.csr import Batch, alike_sides
from csr_model.schedule import learning_rate_factor, set_learning_rate

_BATCHES_IN_ONE = 4
_GRADIENT_CLIP = 1.0


class MapLoss(nn.Module):
    """The contrast of mapped embeddings.

    Args:
        config: Says what to learn and at which temperature.
    """

    def __init__(self, config: CSRConfig) -> None:
        super().__init__()
        self.config = config
        self.residual = nn.Parameter(torch.zeros(config.input_dim, config.input_dim))

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        rows = F.normalize(batch.embeddings, dim=1) if self.config.normalize else batch.embeddings
        unit = F.normalize(rows + F.linear(rows, self.residual), dim=1)
        temperature = self.config.map_temperature
        if self.config.linear_map == "labels":
            assert batch.labels is not None, "Training checks the labels"
            return label_loss(unit @ gather_rows(unit).T, batch.labels, gather_rows(batch.labels), temperature)
        queries, documents = unit[: batch.pairs], unit[batch.pairs : 2 * batch.pairs]
        same_query, same_document = alike_sides(batch)
        return pair_loss(
            queries @ gather_rows(documents).T,
            documents @ gather_rows(queries).T,
            same_document,
            same_query,
            temperature,
        )


def learn_linear_map(
    config: CSRConfig,
    rows: int,
    pairs: Pairs | None,
    batch: Callable[[StepRows], Batch],
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module],
) -> Tensor:
    """Return M [d, d] float32 on the CPU, the same on every rank.

    Args:
        config: With `linear_map` labels or pairs.
        rows: Training rows.
        pairs: Needed for pairs.
        batch: Fetches the rows of a step.
        device: Where to train.
        wrap: Applied to the objective, for instance a DistributedDataParallel constructor.

    Raises:
        InvalidTrainingData: No batch held anything to contrast.
        TrainingDiverged: The loss became NaN or infinite.
    """
    examples = rows if pairs is None else len(pairs.queries)
    wanted = _BATCHES_IN_ONE * config.batch_size // (1 if pairs is None else 2)
    count = max(1, min(wanted, examples) // world_size()) * world_size()
    sampler = Sampler(
        rows=rows,
        row_count=count if pairs is None else 0,
        seed=config.seed,
        pairs=pairs,
        pair_count=0 if pairs is None else count,
        rank=rank(),
        ranks=world_size(),
    )
    objective = MapLoss(config).to(device)
    wrapped = wrap(objective)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=config.map_learning_rate, fused=True)
    steps = max(1, config.map_examples // count)
    for step in range(steps):
        set_learning_rate(optimizer, config.map_learning_rate * learning_rate_factor(step, steps))
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = wrapped(batch(sampler.step(step)))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(wrapped.parameters(), _GRADIENT_CLIP)
        optimizer.step()
    residual = objective.residual.detach().cpu()
    if not bool(residual.isfinite().all()):
        raise TrainingDiverged("the linear map became NaN or infinite; lower map_learning_rate")
    if not bool(residual.any()):
        raise InvalidTrainingData(
            f"linear_map: no batch held anything to contrast in its {config.linear_map}; set it to none"
        )
    return torch.eye(config.input_dim) + residual

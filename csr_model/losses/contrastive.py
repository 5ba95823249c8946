"""Which codes belong together: from labels, from pairs, or from the dense similarities.

Each function takes cosines of this rank's rows with all ranks' rows and returns a scalar whose mean over
ranks is the loss of the whole batch.
"""

import torch.nn.functional as F
from torch import Tensor

from csr_model.collectives import sum_over_ranks, world_size
from csr_model.losses.similarities import MASKED, is_own, own_positions


def label_loss(cosines: Tensor, labels: Tensor, everyones_labels: Tensor, temperature: float) -> Tensor:
    """Return −mean_i log[Σ_{p∈P(i)} e^{c_ip/τ} / Σ_{j≠i} e^{c_ij/τ}] (SpSCL; CSRv2, arXiv 2602.05735).

    P(i) are the other rows with the label of row i; a row never meets itself. Rows without positives are
    left out, and a batch without any gives 0: training refuses labels that cannot form a pair.

    Args:
        cosines: c [n, m].
        labels: [n] int64.
        everyones_labels: [m].
        temperature: τ.
    """
    itself = is_own(len(labels), labels.device)
    positive = (labels[:, None] == everyones_labels) & ~itself
    anchor = positive.any(1)
    logits = cosines / temperature
    # Both softmaxes share a numerator, so any positive's logs differ by the wanted ratio of their sums. logsumexp
    # says it more directly but takes exp apart, which on a CPU is 12 times slower where masked values underflow.
    anyone = positive.int().argmax(1, keepdim=True)
    among_positives = F.log_softmax(logits.masked_fill(~positive, MASKED), 1).gather(1, anyone)
    among_others = F.log_softmax(logits.masked_fill(itself, MASKED), 1).gather(1, anyone)
    losses = (among_positives - among_others)[:, 0]
    anchors = sum_over_ranks(anchor.sum()).clamp(min=1)
    return world_size() * losses.where(anchor, 0).sum() / anchors


def pair_loss(
    query_cosines: Tensor, document_cosines: Tensor, same_document: Tensor, same_query: Tensor, temperature: float
) -> Tensor:
    """Return the mean of both directions' cross-entropy, pair i the positive of row i (InfoNCE, bidirectional).

    Args:
        query_cosines: This rank's queries [p] with all documents [m].
        document_cosines: This rank's documents [p] with all queries [m].
        same_document: [p, m] bool, documents alike this row's, which are then not its negatives.
        same_query: [p, m] bool, the same for queries.
        temperature: τ.
    """
    targets = own_positions(len(query_cosines), query_cosines.device)
    itself = is_own(len(query_cosines), query_cosines.device)
    directions = [
        F.cross_entropy((cosines / temperature).masked_fill(alike & ~itself, MASKED), targets)
        for cosines, alike in ((query_cosines, same_document), (document_cosines, same_query))
    ]
    return (directions[0] + directions[1]) / 2


def neighbour_loss(cosines: Tensor, dense_cosines: Tensor, log_factor: Tensor, temperature: float) -> Tensor:
    """Return mean_i KL(softmax_j(d_ij/τ) ‖ softmax_j(c_ij·e^f/τ)) over j ≠ i: keep the dense neighbours.

    Args:
        cosines: c [n, m], of codes.
        dense_cosines: d [n, m], of embeddings; without gradient.
        log_factor: f, learned: codes' cosines are spread otherwise than embeddings'.
        temperature: τ.
    """
    itself = is_own(len(cosines), cosines.device)
    expected = F.log_softmax((dense_cosines / temperature).masked_fill(itself, MASKED), 1)
    found = F.log_softmax((cosines * log_factor.exp() / temperature).masked_fill(itself, MASKED), 1)
    return F.kl_div(found, expected, reduction="batchmean", log_target=True)

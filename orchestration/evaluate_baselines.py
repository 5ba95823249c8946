"""The lines that codes are drawn against: PCA at as many dimensions as a code has latents, compared exactly."""

from collections.abc import Sequence

from csr_model.baselines.pca import PCA
from csr_model.baselines.truncation import truncate
from orchestration.data.sets import EmbeddedSet
from orchestration.evaluate_answers import Answers, RankingQuality


def pca_quality(data: EmbeddedSet, ks: Sequence[int], answers: Answers) -> dict[int, RankingQuality]:
    """Return the quality of PCA, fitted to the training rows, at each number of dimensions.

    Args:
        data: To fit on and to search.
        ks: Numbers of dimensions; those beyond the embeddings' own are left out.
        answers: Of the same data.
    """
    dims = [k for k in ks if k <= data.train.embeddings.shape[1]]
    if not dims:
        return {}
    pca = PCA.fit(data.train.embeddings, max(dims))
    documents, queries = pca.transform(data.documents.embeddings), pca.transform(data.queries.embeddings)
    return {k: RankingQuality.of(answers.scores_of_vectors(truncate(documents, k), truncate(queries, k))) for k in dims}

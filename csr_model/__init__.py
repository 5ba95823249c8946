"""Contrastive Sparse Representation adapters: dense embeddings in, sparse codes out. Needs torch only."""

from csr_model.adapter import CSRAdapter
from csr_model.code_file import read_codes
from csr_model.codes import Codes
from csr_model.config import CSRConfig
from csr_model.epoch_report import EpochReport
from csr_model.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactExists,
    ArtifactTooNew,
    CSRModelError,
    ExportRefused,
    ImportRefused,
    InvalidConfig,
    InvalidK,
    InvalidTrainingData,
    InvalidVector,
    ResumeMismatch,
    TrainingDiverged,
)
from csr_model.fit import FitResult, fit
from csr_model.training import Training

__all__ = [
    "ArtifactCorrupt",
    "ArtifactError",
    "ArtifactExists",
    "ArtifactTooNew",
    "CSRAdapter",
    "CSRConfig",
    "CSRModelError",
    "Codes",
    "EpochReport",
    "ExportRefused",
    "FitResult",
    "ImportRefused",
    "InvalidConfig",
    "InvalidK",
    "InvalidTrainingData",
    "InvalidVector",
    "ResumeMismatch",
    "Training",
    "TrainingDiverged",
    "fit",
    "read_codes",
]

"""Adapters to and from sentence-transformers folders and the checkpoints of the CSR papers' code.

Needs torch and safetensors only: sentence-transformers reads and writes the same files, but is not imported.
"""

from csr_model.interop.exporting import export_model, export_module
from csr_model.interop.importing import import_adapter

__all__ = ["export_model", "export_module", "import_adapter"]

"""What the README of an exported folder says."""

from csr_model.adapter import CSRAdapter

_FRONT_MATTER = """---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags:
- sentence-transformers
- sparse-encoder
- sparse
- csr
---
"""

_WHOLE = """```python
from sentence_transformers import SparseEncoder

model = SparseEncoder("path/to/this/folder")
embeddings = model.encode(["some text"])
```
"""

_ALONE = """```python
from sentence_transformers.sparse_encoder.models import SparseAutoEncoder

module = SparseAutoEncoder.load("path/to/this/folder")
```

Its input is the embedding as it is, neither centred nor scaled: both are part of the weights.
"""

_DECODING = """Decoding is exact: the module's `decode` restores embeddings as the adapter does, save for the
adapter's gain of each level, which exists for the training loss only.
"""

_NO_DECODING = """**Decoding is not supported.** The adapter applies a learned linear map before it encodes. The map is
part of the exported weights, so encoding is exact, but the module's `decode` uses the same weights and does not restore
embeddings. Do not train this export further: its loss would be computed on wrong reconstructions.
"""


def model_card(adapter: CSRAdapter, whole: bool) -> str:
    """Return the text: how to load it, what is equal to the adapter, what is not.

    Args:
        adapter: The one exported.
        whole: With a backbone in front, or the module alone.
    """
    levels = ", ".join(map(str, adapter.levels))
    source = f" on embeddings of {adapter.manifest.backbone}" if adapter.manifest.backbone else ""
    title = "CSR sparse encoder" if whole else "CSR sparse autoencoder"
    facts = (
        f"A Contrastive Sparse Representation adapter trained{source}: {adapter.input_dim} dimensions in, "
        f"{adapter.hidden_dim:,} latents, {adapter.k_max} of them active. One set of weights serves k = {levels}: "
        f"pass `max_active_dims` for a smaller k. Compare codes by cosine similarity.\n\n"
        f"Exported from the adapter with fingerprint `{adapter.fingerprint}`. Codes equal the adapter's within 1e-6 "
        f"after L2 normalisation, save where two pre-activations tie.\n"
    )
    decoding = _DECODING if adapter.autoencoder.linear_map is None else _NO_DECODING
    return "\n".join((_FRONT_MATTER, f"# {title}\n", facts, _WHOLE if whole else _ALONE, decoding))

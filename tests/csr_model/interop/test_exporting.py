import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.models import SparseAutoEncoder

from csr_model import CSRAdapter, CSRConfig, ExportRefused, fit
from csr_model.interop import export_model, export_module
from orchestration.data.catalog import MINILM_NAME, fetch_backbone
from services.runtime.settings import load_settings
from tests.support.random_adapter import assert_same_codes, make_adapter, random_rows

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def backbone() -> Path:
    """The packaged text model: Transformer, Pooling, Normalize."""
    return fetch_backbone(load_settings().cache_dir)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real paragraphs of many lengths."""
    paragraphs = (ROOT / "docs" / "architecture.md").read_text().split("\n\n")
    return [" ".join(text.split()) for text in paragraphs if len(text) > 40][:24]


@pytest.fixture(scope="session")
def text_adapter() -> CSRAdapter:
    """A normalising adapter for the backbone's embeddings."""
    return make_adapter(normalize=True, input_dim=384, hidden_dim=512, levels=(4, 8, 16, 32))


def without_normalize(backbone: Path, target: Path) -> Path:
    """Copy the backbone as one that leaves its embeddings unscaled."""
    shutil.copytree(backbone, target)
    modules = json.loads((target / "modules.json").read_text())
    (target / "modules.json").write_text(json.dumps(modules[:2]))
    return target


def run_module(folder: Path, rows: np.ndarray, k: int | None = None) -> np.ndarray:
    """Return what the real SparseAutoEncoder makes of embeddings."""
    module = SparseAutoEncoder.load(str(folder)).eval()
    with torch.inference_mode():
        features = module({"sentence_embedding": torch.from_numpy(rows)}, max_active_dims=k)
    return features["sentence_embedding"].numpy()


@pytest.mark.parametrize("mapped", [False, True], ids=["affine", "linear-map"])
@pytest.mark.parametrize("k", [None, 4])
def test_module_alone_encodes_as_the_adapter(mapped: bool, k: int | None, tmp_path: Path) -> None:
    """Who runs the exported module in their own pipeline must get our codes, at k_max and below."""
    adapter, rows = make_adapter(mapped=mapped), random_rows(400, seed=6)
    export_module(adapter, tmp_path / "module")
    assert_same_codes(adapter, rows, k or 8, run_module(tmp_path / "module", rows, k))


def test_module_alone_decodes_as_the_adapter(plain_adapter: CSRAdapter, module_folder: Path) -> None:
    """The card promises exact decoding without a linear map."""
    rows, model = torch.from_numpy(random_rows(50, seed=7)), plain_adapter.autoencoder
    theirs = SparseAutoEncoder.load(str(module_folder)).eval()
    with torch.inference_mode():
        restored = theirs({"sentence_embedding": rows})["sentence_embedding"]
        restored = theirs.decode(restored)
        ours = (model.decode(model.encode(rows, 8)) + model.pre_bias) / model.scale + model.mean
    torch.testing.assert_close(restored, ours, rtol=0, atol=1e-5)


def test_whole_model_encodes_texts_as_the_adapter(
    text_adapter: CSRAdapter, backbone: Path, texts: list[str], tmp_path: Path
) -> None:
    """`SparseEncoder(path)` must give users of sentence-transformers the codes that our encoder serves."""
    export_model(text_adapter, tmp_path / "model", backbone)
    encoder = SparseEncoder(str(tmp_path / "model"), device="cpu", local_files_only=True)
    embeddings = SentenceTransformer(str(backbone), device="cpu", local_files_only=True).encode(texts)
    assert [type(module).__name__ for module in encoder] == ["Transformer", "Pooling", "Normalize", "SparseAutoEncoder"]
    assert (encoder.similarity_fn_name, encoder.max_active_dims) == ("cosine", 32)
    assert_same_codes(text_adapter, embeddings, 32, encoder.encode(texts).to_dense().numpy())
    assert_same_codes(text_adapter, embeddings, 8, encoder.encode(texts, max_active_dims=8).to_dense().numpy())


def test_whole_model_gets_normalize_where_the_backbone_has_none(
    text_adapter: CSRAdapter, backbone: Path, texts: list[str], tmp_path: Path
) -> None:
    """An adapter that normalises rows must see unit rows in the export too."""
    source = without_normalize(backbone, tmp_path / "unscaled")
    export_model(text_adapter, tmp_path / "model", source)
    encoder = SparseEncoder(str(tmp_path / "model"), device="cpu", local_files_only=True)
    embeddings = SentenceTransformer(str(source), device="cpu", local_files_only=True).encode(texts)
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() > 0.5
    assert [type(module).__name__ for module in encoder][2:] == ["Normalize", "SparseAutoEncoder"]
    assert_same_codes(text_adapter, embeddings, 32, encoder.encode(texts).to_dense().numpy())


def test_export_survives_a_save_by_sentence_transformers(
    text_adapter: CSRAdapter, backbone: Path, texts: list[str], tmp_path: Path
) -> None:
    """Who loads, saves or uploads the export with their newest version must not lose or double the module."""
    export_model(text_adapter, tmp_path / "model", backbone)
    first = SparseEncoder(str(tmp_path / "model"), device="cpu", local_files_only=True)
    first.save_pretrained(str(tmp_path / "again"))
    second = SparseEncoder(str(tmp_path / "again"), device="cpu", local_files_only=True)
    assert torch.equal(first.encode(texts).to_dense(), second.encode(texts).to_dense())


def test_backbone_is_copied_whole(text_adapter: CSRAdapter, backbone: Path, tmp_path: Path) -> None:
    """The licence and prompts of the backbone must travel with its weights, and the backbone stay as it was."""
    before = (backbone / "modules.json").read_bytes()
    export_model(text_adapter, tmp_path / "model", backbone)
    folder = tmp_path / "model"
    assert (folder / "README.backbone.md").read_bytes() == (backbone / "README.md").read_bytes()
    assert (folder / "model.safetensors").stat().st_size == (backbone / "model.safetensors").stat().st_size
    assert json.loads((folder / "config_sentence_transformers.json").read_text())["model_type"] == "SparseEncoder"
    assert (backbone / "modules.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_card_says_what_does_not_decode(tmp_path: Path) -> None:
    """With a linear map the module's decode is wrong; whoever finds the folder must learn that from it."""
    for mapped in (False, True):
        adapter = make_adapter(mapped=mapped)
        export_module(adapter, tmp_path / str(mapped))
        card = (tmp_path / str(mapped) / "README.md").read_text()
        assert ("Decoding is not supported" in card) == mapped
        assert adapter.fingerprint in card


def test_module_alone_is_refused_for_normalised_rows(tmp_path: Path) -> None:
    """A module that cannot normalise would silently encode everything else than unit rows wrongly."""
    with pytest.raises(ExportRefused, match="normalize is on"):
        export_module(make_adapter(normalize=True), tmp_path / "module")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mean", [100, 1000])
def test_codes_that_float32_cannot_keep_are_refused(
    mean: float, embeddings: np.ndarray, config: Callable[..., CSRConfig], tmp_path: Path
) -> None:
    """Far from the origin folding loses digits: the export would not be the adapter that it says it is."""
    changes = {"normalize": False, "linear_map": "labels", "map_examples": 200, "gamma_labels": 1.0, "epochs": 1}
    near, far = (
        fit(rows, np.arange(320) % 4, config=config(**changes)).adapter for rows in (embeddings, embeddings + mean)
    )
    export_module(near, tmp_path / "near")
    with pytest.raises(ExportRefused, match="folded codes of the reference embeddings differ by"):
        export_module(far, tmp_path / "far")
    assert not (tmp_path / "far").exists()


def test_existing_path_is_refused(plain_adapter: CSRAdapter, module_folder: Path) -> None:
    """An export that somebody already uses must not change under them."""
    before = {path.name: path.read_bytes() for path in module_folder.iterdir()}
    with pytest.raises(ExportRefused, match="exists"):
        export_module(plain_adapter, module_folder)
    assert {path.name: path.read_bytes() for path in module_folder.iterdir()} == before


def test_failed_write_leaves_nothing(
    plain_adapter: CSRAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not leave half a model under the final name."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csr_model.interop.exporting.write_module", full)
    with pytest.raises(ExportRefused, match="No space left"):
        export_module(plain_adapter, tmp_path / "module")
    assert list(tmp_path.iterdir()) == []


def test_other_dimension_is_refused(plain_adapter: CSRAdapter, backbone: Path, tmp_path: Path) -> None:
    """A backbone of another width would fail on the first text, after the model was passed on."""
    with pytest.raises(ExportRefused, match="gives 384 dimensions; the adapter takes 16"):
        export_model(plain_adapter, tmp_path / "model", backbone)


def test_other_backbone_is_refused(text_adapter: CSRAdapter, backbone: Path, tmp_path: Path) -> None:
    """An adapter behind a backbone that it was not trained on makes codes without meaning."""
    named = make_adapter(normalize=True, input_dim=384)
    named.manifest = replace(named.manifest, backbone="another-model")
    with pytest.raises(ExportRefused, match="is not another-model"):
        export_model(named, tmp_path / "model", backbone)
    named.manifest = replace(named.manifest, backbone=MINILM_NAME)
    export_model(named, tmp_path / "model", backbone)


def test_sparse_or_broken_backbones_are_refused(text_adapter: CSRAdapter, backbone: Path, tmp_path: Path) -> None:
    """What is no dense sentence-transformers folder must be refused by name, not copied."""
    export_model(text_adapter, tmp_path / "model", backbone)
    with pytest.raises(ExportRefused, match="ends in SparseAutoEncoder"):
        export_model(text_adapter, tmp_path / "twice", tmp_path / "model")
    with pytest.raises(ExportRefused, match=r"modules\.json"):
        export_model(text_adapter, tmp_path / "other", tmp_path / "nothing")
    with pytest.raises(ExportRefused, match="lies inside the backbone"):
        export_model(text_adapter, tmp_path / "dense" / "below", without_normalize(backbone, tmp_path / "dense"))
    assert not (tmp_path / "twice").exists()

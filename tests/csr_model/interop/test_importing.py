import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.models import SparseAutoEncoder
from torch import Tensor

from csr_model import CSRAdapter, ImportRefused, InvalidVector
from csr_model.interop import export_model, export_module, import_adapter
from tests.support.random_adapter import assert_same_codes, make_adapter, random_rows

WEIGHTS = "model.safetensors"
Change = Callable[[dict[str, Tensor]], Any]


@pytest.fixture
def their_module() -> SparseAutoEncoder:
    """A module of sentence-transformers that was not made by us."""
    torch.manual_seed(11)
    module = SparseAutoEncoder(input_dim=16, hidden_dim=40, k=6, k_aux=8)
    torch.nn.init.normal_(module.pre_bias, 0, 0.1)
    torch.nn.init.normal_(module.latent_bias, 0, 0.1)
    return module.eval()


def dense_backbone(folder: Path, normalize: bool) -> Path:
    """Write what a backbone folder says of itself; imports and exports read no more of it."""
    kinds = ["Transformer", "Pooling", "Normalize"] if normalize else ["Transformer", "Pooling"]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def run(module: SparseAutoEncoder, rows: np.ndarray) -> np.ndarray:
    """Return the codes of a real module."""
    with torch.inference_mode():
        return module({"sentence_embedding": torch.from_numpy(rows)})["sentence_embedding"].numpy()


def edit_tensors(folder: Path, change: Change) -> None:
    """Rewrite the weights as `change` says."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_module_of_sentence_transformers_becomes_an_adapter(their_module: SparseAutoEncoder, tmp_path: Path) -> None:
    """A module trained and saved with the real library must encode alike as our adapter, and save, load and verify."""
    (tmp_path / "theirs").mkdir()
    their_module.save(str(tmp_path / "theirs"))
    adapter, rows = import_adapter(tmp_path / "theirs"), random_rows(300, seed=8)
    assert_same_codes(adapter, rows, 6, run(their_module, rows))
    assert (adapter.levels, adapter.hidden_dim, adapter.manifest.normalize) == ((1, 2, 4, 6), 40, False)
    adapter.verify_parity()
    adapter.save(tmp_path / "adapter")
    loaded = CSRAdapter.load(tmp_path / "adapter")
    loaded.verify_parity()
    assert loaded.fingerprint == adapter.fingerprint
    np.testing.assert_array_equal(loaded.encode(rows, 6).weights, adapter.encode(rows, 6).weights)


@pytest.mark.parametrize(("k", "levels"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))])
def test_levels_are_the_powers_of_two_up_to_k(k: int, levels: tuple[int, ...], tmp_path: Path) -> None:
    """Collections are searched at levels; an imported adapter must offer them whatever its k."""
    export_module(make_adapter(levels=(k,)), tmp_path / "module")
    assert import_adapter(tmp_path / "module").levels == levels


def test_module_round_trip_keeps_the_codes(plain_adapter: CSRAdapter, module_folder: Path, tmp_path: Path) -> None:
    """Out and in again must encode alike; from then on, even the weights must not drift."""
    once, rows = import_adapter(module_folder), random_rows(300, seed=9)
    dense = run(SparseAutoEncoder.load(str(module_folder)).eval(), rows)
    assert_same_codes(plain_adapter, rows, 8, dense)
    assert_same_codes(once, rows, 8, dense)
    export_module(once, tmp_path / "again")
    assert import_adapter(tmp_path / "again").fingerprint == once.fingerprint


@pytest.mark.parametrize("backbone_normalizes", [True, False])
def test_model_round_trip_keeps_normalisation(backbone_normalizes: bool, tmp_path: Path) -> None:
    """An adapter that normalises rows must still do so after a round trip, whoever added the module."""
    adapter, rows = make_adapter(normalize=True, mapped=True), random_rows(300, seed=10)
    export_model(adapter, tmp_path / "model", dense_backbone(tmp_path / "dense", backbone_normalizes))
    back = import_adapter(tmp_path / "model")
    assert back.manifest.normalize
    np.testing.assert_allclose(back.encode(rows, 1).weights, 1)
    ours, theirs = adapter.encode(rows, 9), back.encode(rows, 9)
    clear = (ours.weights[:, :-1] - ours.weights[:, 1:]).min(axis=1) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(theirs.latents[clear], ours.latents[clear])
    np.testing.assert_allclose(theirs.weights[clear], ours.weights[clear], rtol=0, atol=1e-6)


def test_model_without_normalize_imports_as_not_normalising(plain_adapter: CSRAdapter, tmp_path: Path) -> None:
    """Without a Normalize module the length of an embedding matters, and must go on mattering."""
    export_model(plain_adapter, tmp_path / "model", dense_backbone(tmp_path / "dense", normalize=False))
    assert not import_adapter(tmp_path / "model").manifest.normalize


def test_real_model_saved_by_sentence_transformers(their_module: SparseAutoEncoder, tmp_path: Path) -> None:
    """The newest library writes other names and files than we do; both must be understood."""
    from sentence_transformers.models import Normalize

    encoder = SparseEncoder(modules=[Normalize(), their_module], device="cpu")
    encoder.save_pretrained(str(tmp_path / "theirs"))
    adapter, rows = import_adapter(tmp_path / "theirs"), random_rows(200, seed=12)
    assert adapter.manifest.normalize
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert_same_codes(adapter, rows, 6, run(their_module, unit))


def test_real_rows_give_usage_and_references(module_folder: Path) -> None:
    """With rows of the user's own, dead latents and parity are known before the first collection."""
    rows = random_rows(100, seed=13)
    adapter, blind = import_adapter(module_folder, rows=rows), import_adapter(module_folder)
    counted = np.bincount(adapter.encode(rows, 8).latents.ravel(), minlength=48)
    assert adapter.manifest.usage_rows == 100
    assert adapter.usage.tolist()[1:] == counted.tolist()[1:]  # latent 0 also pads
    assert (blind.manifest.usage_rows, int(blind.usage.sum())) == (0, 0)
    assert blind.fingerprint == adapter.fingerprint
    assert blind.fingerprint == import_adapter(module_folder).fingerprint
    with pytest.raises(InvalidVector, match="takes 16"):
        import_adapter(module_folder, rows=rows[:, :5])
    with pytest.raises(ImportRefused, match="rows is empty"):
        import_adapter(module_folder, rows=rows[:0])


def test_half_precision_weights_are_read(plain_adapter: CSRAdapter, module_folder: Path) -> None:
    """Published models are often stored in float16; the library reads them, so must we."""

    def halve(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: t.half() for name, t in tensors.items() if t.is_floating_point()})

    edit_tensors(module_folder, halve)
    rows = random_rows(200, seed=14)
    adapter = import_adapter(module_folder)
    assert_same_codes(adapter, rows, 8, run(SparseAutoEncoder.load(str(module_folder)).eval().float(), rows))


def test_normalize_may_be_said_for_a_module(module_folder: Path) -> None:
    """A bare module does not say whether its backbone normalised; the user can."""
    assert import_adapter(module_folder, normalize=True).manifest.normalize
    with pytest.raises(ImportRefused, match="k is given"):
        import_adapter(module_folder, k=8)


CONFIG_FAULTS: dict[str, dict[str, Any]] = {
    "normalize is true": {"normalize": True},
    "k is 49": {"k": 49},
    "k is 0": {"k": 0},
    "k is '8'; it must be of type int": {"k": "8"},
    r"lacks or adds \['activation'\]": {"activation": "relu"},
    "hidden_dim 64 and input_dim 16, the weights have 48 and 16": {"hidden_dim": 64},
}


@pytest.mark.parametrize(("fault", "changes"), CONFIG_FAULTS.items(), ids=list(CONFIG_FAULTS))
def test_settings_that_cannot_be_represented_are_refused(
    fault: str, changes: dict[str, Any], module_folder: Path
) -> None:
    """A setting that we would ignore must not become other codes than the author's."""
    config = json.loads((module_folder / "config.json").read_text())
    (module_folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ImportRefused, match=fault):
        import_adapter(module_folder)


TENSOR_FAULTS: dict[str, Change] = {
    "holds both": lambda t: t.update({"encoder.weight": t["decoder.linear.weight"].clone()}),
    "holds neither": lambda t: t.pop("decoder.linear.weight"),
    "decoder.weight is untied": lambda t: t.update({"decoder.weight": t["decoder.linear.weight"].T.contiguous()}),
    "lacks stats_last_nonzero": lambda t: t.pop("stats_last_nonzero"),
    "lacks pre_bias": lambda t: t.pop("pre_bias"),
    "holds gate, which": lambda t: t.update({"gate": torch.ones(1)}),
    r"latent_bias has shape \(47,\)": lambda t: t.update({"latent_bias": t["latent_bias"][:47].clone()}),
    r"decoder.linear.weight has shape \(768,\)": lambda t: t.update(
        {"decoder.linear.weight": t["decoder.linear.weight"].reshape(-1)}
    ),
    "pre_bias has dtype torch.int32": lambda t: t.update({"pre_bias": t["pre_bias"].int()}),
    "pre_bias holds NaN": lambda t: t.update({"pre_bias": t["pre_bias"] / 0}),
}


@pytest.mark.parametrize(("fault", "change"), TENSOR_FAULTS.items(), ids=list(TENSOR_FAULTS))
def test_tensors_of_another_model_are_refused(fault: str, change: Change, module_folder: Path) -> None:
    """Weights that only look like an autoencoder's must be refused by name, not guessed at."""
    edit_tensors(module_folder, change)
    with pytest.raises(ImportRefused, match=fault):
        import_adapter(module_folder)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_missing_and_damaged_files_are_refused(name: str, module_folder: Path) -> None:
    """A download that broke off must be recognised."""
    file = module_folder / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ImportRefused, match=name):
        import_adapter(module_folder)
    file.unlink()
    with pytest.raises(ImportRefused, match=f"cannot read .*{name}"):
        import_adapter(module_folder)
    with pytest.raises(ImportRefused, match="does not exist"):
        import_adapter(module_folder / "nothing")


def test_model_folders_with_another_shape_are_refused(plain_adapter: CSRAdapter, tmp_path: Path) -> None:
    """A dense model, a model that goes on after the codes, or a path that leads elsewhere is no adapter."""
    dense = dense_backbone(tmp_path / "dense", normalize=False)
    with pytest.raises(ImportRefused, match="exactly one SparseAutoEncoder"):
        import_adapter(dense)
    export_model(plain_adapter, tmp_path / "model", dense)
    with pytest.raises(ImportRefused, match="normalize is given"):
        import_adapter(tmp_path / "model", normalize=True)
    file = tmp_path / "model" / "modules.json"
    modules = json.loads(file.read_text())
    file.write_text(json.dumps([*modules, {"path": "", "type": "sentence_transformers.models.Normalize"}]))
    with pytest.raises(ImportRefused, match="Normalize follows"):
        import_adapter(tmp_path / "model")
    file.write_text(json.dumps([*modules[:-1], modules[-1] | {"path": "../dense"}]))
    with pytest.raises(ImportRefused, match="leads out of the folder"):
        import_adapter(tmp_path / "model")
    file.write_text(json.dumps([*modules[:-1], modules[-1] | {"type": "my_code.SparseAutoEncoder"}]))
    with pytest.raises(ImportRefused, match="exactly one SparseAutoEncoder"):
        import_adapter(tmp_path / "model")


def insert_modules(model: Path, *kinds: str) -> None:
    """Put modules before the autoencoder of an exported model."""
    file = model / "modules.json"
    modules = json.loads(file.read_text())
    inserted = [
        {"path": kind, "type": kind if "." in kind else f"sentence_transformers.models.{kind}"} for kind in kinds
    ]
    file.write_text(json.dumps([*modules[:-1], *inserted, modules[-1]]))


@pytest.mark.parametrize(
    ("kinds", "normalizes"),
    [(["Dropout"], True), (["Dropout", "Dropout"], True), (["Dense"], False), (["LayerNorm", "Dropout"], False)],
    ids=str,
)
def test_what_follows_normalize_decides(kinds: list[str], normalizes: bool, tmp_path: Path) -> None:
    """Dropout does nothing to a query; forgetting the Normalize before it would give other codes than the author's."""
    export_model(make_adapter(normalize=True), tmp_path / "model", dense_backbone(tmp_path / "dense", normalize=True))
    insert_modules(tmp_path / "model", *kinds)
    assert import_adapter(tmp_path / "model").manifest.normalize == normalizes
    insert_modules(tmp_path / "model", "my_code.Whitening")
    with pytest.raises(ImportRefused, match=r"my_code\.Whitening stands between"):
        import_adapter(tmp_path / "model")


@pytest.mark.parametrize("content", ["[]", "1", "null", "[" * 200_000], ids=len)
def test_settings_that_are_none_are_refused(content: str, module_folder: Path, tmp_path: Path) -> None:
    """A broken file in a download must end in one line, not in a traceback."""
    export_model(make_adapter(normalize=True), tmp_path / "model", dense_backbone(tmp_path / "dense", normalize=False))
    (tmp_path / "model" / "2_Normalize").mkdir()
    for folder in (tmp_path / "model" / "2_Normalize", module_folder):
        (folder / "config.json").write_text(content)
        with pytest.raises(ImportRefused, match=r"config\.json"):
            import_adapter(folder if folder == module_folder else tmp_path / "model")


def test_a_path_that_no_system_takes_is_refused(plain_adapter: CSRAdapter, tmp_path: Path) -> None:
    """A forged modules.json must be refused like any other broken one."""
    export_model(plain_adapter, tmp_path / "model", dense_backbone(tmp_path / "dense", normalize=False))
    file = tmp_path / "model" / "modules.json"
    modules = json.loads(file.read_text())
    file.write_text(json.dumps([modules[0] | {"path": "a\0b"}, *modules[1:]]))
    with pytest.raises(ImportRefused, match="not a list of modules"):
        import_adapter(tmp_path / "model")

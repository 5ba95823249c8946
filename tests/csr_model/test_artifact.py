import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from csr_model import ArtifactCorrupt, ArtifactError, ArtifactExists, ArtifactTooNew, CSRAdapter, CSRConfig, fit


@pytest.fixture
def folder(adapter: CSRAdapter, tmp_path: Path) -> Path:
    """A stored adapter."""
    adapter.save(tmp_path / "adapter", metrics={"one_nn_accuracy_k8": 0.5}, backbone="some-backbone")
    return tmp_path / "adapter"


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of config.json, as a hand or a broken tool would."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(adapter: CSRAdapter, folder: Path, embeddings: np.ndarray) -> None:
    """A stored adapter must encode bit for bit as the trained one, and keep its provenance."""
    loaded = CSRAdapter.load(folder)
    before, after = adapter.encode(embeddings, 8), loaded.encode(embeddings, 8)
    np.testing.assert_array_equal(before.latents, after.latents)
    np.testing.assert_array_equal(before.weights, after.weights)
    assert loaded.fingerprint == adapter.fingerprint
    assert loaded.manifest.metrics == {"one_nn_accuracy_k8": 0.5}
    assert loaded.manifest.backbone == "some-backbone"
    assert loaded.manifest.data == {"digest": adapter.manifest.data["digest"], "rows": 320}
    assert (loaded.input_dim, loaded.hidden_dim, loaded.levels, loaded.k_max) == (16, 48, (2, 4, 8), 8)
    assert loaded.usage.tolist() == adapter.usage.tolist()
    loaded.verify_parity()


def test_holds_two_files_and_no_pickle(folder: Path) -> None:
    """Serving a model must not execute anything that the artifact holds."""
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.safetensors", "config.json"]
    assert load_file(folder / "adapter.safetensors")["weight"].shape == (48, 16)


@pytest.mark.parametrize("position", [-1, -5000, 10])
def test_changed_weight_file_is_detected(folder: Path, position: int) -> None:
    """One flipped byte on disk must not become wrong search results."""
    path = folder / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match="SHA-256"):
        CSRAdapter.load(folder)


def test_exchanged_weights_with_matching_sha_are_detected(folder: Path) -> None:
    """Weights and their checksum exchanged together still belong to another fingerprint."""
    path = folder / "adapter.safetensors"
    tensors = load_file(path)
    tensors["weight"][0, 0] += 1e-3
    save_file(tensors, path)
    edit_config(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ArtifactCorrupt, match="fingerprint"):
        CSRAdapter.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize": False},
        {"levels": [2, 4]},
        {"levels": []},
        {"levels": None},
        {"fingerprint": "0" * 32},
        {"hidden_dim": 47},
        {"weights_sha256": ""},
        {"unknown": 1},
        {"format_version": 0},
        {"format_version": "1"},
        {"format_version": True},
        *({"training": value} for value in (None, 0, "x", [])),
        *({"metrics": value} for value in (None, "x", {"loss": "x"}, {"loss": None})),
        *({"usage_rows": value} for value in ("x", -1, 1.0, 3)),
        *({"backbone": value} for value in (0, False)),
        *({"data": value} for value in (5, None)),
        *({"linear_map": value} for value in (None, 0)),
        *({"levels": value} for value in ([2, 2, 8], [8, 4, 2], [2, 4, True], [2, 4, 49], [0, 8], "248")),
        *({"input_dim": value} for value in (0, -1, 16.0, 10**30)),
        *({"hidden_dim": value} for value in (0, 65_537, True)),
    ],
    ids=str,
)
def test_changed_configuration_is_detected(folder: Path, changes: dict[str, Any]) -> None:
    """A configuration edited by hand must not silently change what codes mean."""
    edit_config(folder, **changes)
    with pytest.raises(ArtifactCorrupt):
        CSRAdapter.load(folder)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"format_version": 2, "format_version": 2}', "[]", "3"], ids=len)
def test_configuration_that_is_none_is_detected(folder: Path, content: str) -> None:
    """Whatever stands in the file, loading must end in one error that callers know."""
    (folder / "config.json").write_text(content)
    with pytest.raises(ArtifactCorrupt, match=r"config\.json"):
        CSRAdapter.load(folder)


def test_newer_format_is_refused(folder: Path) -> None:
    """An older release must say that it is too old, not misread the folder."""
    edit_config(folder, format_version=3)
    with pytest.raises(ArtifactTooNew, match="format version 3; this release reads up to 2"):
        CSRAdapter.load(folder)


@pytest.mark.parametrize("name", ["adapter.safetensors", "config.json"])
def test_missing_or_cut_files_are_detected(folder: Path, name: str) -> None:
    """A download that broke off must be recognised."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactCorrupt):
        CSRAdapter.load(folder)
    path.unlink()
    with pytest.raises(ArtifactCorrupt, match=name):
        CSRAdapter.load(folder)


def test_existing_folder_is_never_overwritten(adapter: CSRAdapter, folder: Path) -> None:
    """An artifact that a service may be loading must not change under it."""
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ArtifactExists):
        adapter.save(folder)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_failed_write_leaves_nothing(adapter: CSRAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not leave a folder that looks like an adapter."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csr_model.new_folder.sync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        adapter.save(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_is_the_space_of_codes(
    adapter: CSRAdapter, folder: Path, embeddings: np.ndarray, config: Callable[..., CSRConfig]
) -> None:
    """Same data and seed name the same space on any day; another seed names another; metrics do not matter."""
    assert fit(embeddings, config=config()).adapter.fingerprint == adapter.fingerprint
    assert fit(embeddings, config=config(), seed=1).adapter.fingerprint != adapter.fingerprint
    assert CSRAdapter.load(folder).fingerprint == adapter.fingerprint
    assert len(adapter.fingerprint) == 32


def test_parity_notices_a_machine_that_encodes_differently(folder: Path) -> None:
    """A broken kernel or driver must stop a replica from serving before it answers once."""
    loaded = CSRAdapter.load(folder)
    with torch.no_grad():
        loaded._autoencoder.weight[:, 0] += 0.01
    with pytest.raises(ArtifactCorrupt, match="reference codes differ"):
        loaded.verify_parity()


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)], ids=repr)
def test_metrics_may_be_numbers_of_any_kind(adapter: CSRAdapter, tmp_path: Path, value: Any) -> None:
    """Metrics come out of numpy and torch; a finished training must not be lost for that."""
    assert adapter.save(tmp_path / "adapter", metrics={"loss": value}).manifest.metrics == {"loss": 0.5}
    assert CSRAdapter.load(tmp_path / "adapter").manifest.metrics == {"loss": 0.5}


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, object(), None, torch.ones(2), 10**400], ids=lambda value: str(value)[:9]
)
def test_metrics_that_are_no_numbers_are_refused_by_name(adapter: CSRAdapter, tmp_path: Path, value: Any) -> None:
    """NaN is no JSON: other tools could not read the folder."""
    with pytest.raises(ArtifactError, match=r"metrics\['loss'\] is"):
        adapter.save(tmp_path / "adapter", metrics={"good": 1.0, "loss": value})
    assert not list(tmp_path.iterdir())


def test_a_path_that_no_system_takes_is_refused(adapter: CSRAdapter, tmp_path: Path) -> None:
    """A path out of a request must end in an error that callers know."""
    with pytest.raises(ArtifactError, match="null byte"):
        adapter.save(tmp_path / "a\0b")
    with pytest.raises(ArtifactError, match="null byte"):
        CSRAdapter.load(tmp_path / "a\0b")


def test_moved_folder_still_loads(folder: Path, tmp_path: Path) -> None:
    """Artifacts are copied between stores; nothing in them may depend on a path."""
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    CSRAdapter.load(tmp_path / "elsewhere" / "copy").verify_parity()


@pytest.fixture(scope="module")
def mapped(config: Callable[..., CSRConfig], embeddings: np.ndarray) -> CSRAdapter:
    """An adapter with a linear map, learned from labels."""
    labels = np.arange(320) % 4
    return fit(embeddings, labels, config=config(linear_map="labels", map_examples=400, epochs=1)).adapter


@pytest.fixture
def mapped_folder(mapped: CSRAdapter, tmp_path: Path) -> Path:
    """That adapter, stored."""
    mapped.save(tmp_path / "mapped")
    return tmp_path / "mapped"


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors, and record the new checksum as a careful forger would."""
    path = folder / "adapter.safetensors"
    tensors = {name: tensor for name, tensor in (load_file(path) | changes).items() if tensor is not None}
    save_file(tensors, path)
    edit_config(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def numbers(*shape: int, value: int = 0) -> torch.Tensor:
    """Return a tensor of whole numbers."""
    return torch.full(shape, value)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("usage", torch.zeros(48)),
        ("usage", torch.zeros(48, dtype=torch.bool)),
        ("usage", numbers(48, value=-1)),
        ("usage", numbers(48, value=321)),
        ("usage", None),
        ("log_gain", torch.full((5,), torch.nan)),
        ("log_gain", torch.zeros(4)),
        ("unknown", torch.zeros(1)),
        ("reference.embeddings", None),
        ("reference.embeddings", torch.ones(16, 15)),
        ("reference.embeddings", torch.ones(())),
        ("reference.embeddings", torch.ones(0, 16)),
        ("reference.embeddings", torch.zeros(16, 16)),
        ("reference.embeddings", torch.ones(15, 16)),
        ("reference.embeddings", torch.ones(16, 16, dtype=torch.float64)),
        ("reference.latents", numbers(16, 8, value=48)),
        ("reference.latents", numbers(16, 8, value=-1)),
        ("reference.latents", numbers(16, 7)),
        ("reference.latents", numbers(16, 8).int()),
        ("reference.weights", torch.full((16, 8), torch.inf)),
        ("reference.weights", torch.ones(16, 9)),
    ],
)
def test_changed_tensors_are_detected(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Tensors beside the weights are under no fingerprint, yet drift and parity are measured with them."""
    edit_tensors(folder, **{name: tensor})
    with pytest.raises(ArtifactCorrupt, match=name.partition(".")[0]):
        CSRAdapter.load(folder)


def test_linear_map_round_trip(mapped: CSRAdapter, mapped_folder: Path, embeddings: np.ndarray) -> None:
    """A map that was lost on the way would leave an adapter that encodes something else, without an error."""
    loaded = CSRAdapter.load(mapped_folder)
    assert loaded.manifest.linear_map
    assert loaded.fingerprint == mapped.fingerprint
    assert loaded.supervised
    before, after = mapped.encode(embeddings, 8), loaded.encode(embeddings, 8)
    np.testing.assert_array_equal(before.latents, after.latents)
    np.testing.assert_array_equal(before.weights, after.weights)
    loaded.verify_parity()
    with torch.no_grad():
        loaded._autoencoder.linear_map.copy_(torch.eye(16))
    assert (loaded.encode(embeddings, 8).weights != before.weights).any()


def test_changed_linear_map_is_detected(mapped_folder: Path) -> None:
    """The map decides every code, so the fingerprint must cover it."""
    tensors = load_file(mapped_folder / "adapter.safetensors")
    edit_tensors(mapped_folder, linear_map=tensors["linear_map"] + 1e-3)
    with pytest.raises(ArtifactCorrupt, match="fingerprint"):
        CSRAdapter.load(mapped_folder)


@pytest.mark.parametrize(
    "tensor",
    [None, torch.eye(15), torch.eye(16, dtype=torch.float64)],
    ids=["missing", "misshapen", "float64"],
)
def test_missing_or_misshapen_linear_map_is_detected(mapped_folder: Path, tensor: torch.Tensor | None) -> None:
    """Without its map the adapter would take embeddings as they are and find nothing that fits."""
    edit_tensors(mapped_folder, linear_map=tensor)
    with pytest.raises(ArtifactCorrupt, match=r"linear_map|float32"):
        CSRAdapter.load(mapped_folder)


def test_unexpected_linear_map_is_detected(folder: Path, mapped_folder: Path) -> None:
    """A map that the configuration denies must not be ignored."""
    edit_tensors(folder, linear_map=torch.eye(16))
    edit_config(mapped_folder, linear_map=False)
    for altered in (folder, mapped_folder):
        with pytest.raises(ArtifactCorrupt, match=r"lacks or adds \['linear_map'\]"):
            CSRAdapter.load(altered)


def test_format_1_still_loads(adapter: CSRAdapter, folder: Path, embeddings: np.ndarray) -> None:
    """Adapters stored before linear maps existed are in registries and must serve the same codes."""
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    del stored["linear_map"]
    stored["training"] = {"gamma": 1.0, "levels": [2, 4, 8]}
    path.write_text(json.dumps(stored | {"format_version": 1}))
    loaded = CSRAdapter.load(folder)
    assert loaded.fingerprint == adapter.fingerprint
    assert not loaded.manifest.linear_map
    assert loaded.supervised
    np.testing.assert_array_equal(loaded.encode(embeddings, 8).latents, adapter.encode(embeddings, 8).latents)
    loaded.verify_parity()
    loaded.save(folder.parent / "again")
    assert json.loads((folder.parent / "again" / "config.json").read_text())["format_version"] == 2


def test_format_2_must_say_whether_there_is_a_map(folder: Path) -> None:
    """Only the old format may leave it out; in the new one a missing field is damage."""
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    del stored["linear_map"]
    path.write_text(json.dumps(stored))
    with pytest.raises(ArtifactCorrupt, match="linear_map"):
        CSRAdapter.load(folder)


@pytest.mark.parametrize(
    ("changes", "supervised"),
    [
        ({}, False),
        ({"gamma_neighbours": 1.0}, False),
        ({"gamma_labels": 1.0}, True),
        ({"linear_map": "labels"}, True),
    ],
    ids=str,
)
def test_says_whether_labels_shaped_it(
    config: Callable[..., CSRConfig], embeddings: np.ndarray, changes: dict[str, Any], supervised: bool
) -> None:
    """Gates hold an adapter to dense neighbours only if nothing else taught it."""
    labels = np.arange(320) % 4
    assert (
        fit(embeddings, labels, config=config(epochs=1, map_examples=200, **changes)).adapter.supervised == supervised
    )

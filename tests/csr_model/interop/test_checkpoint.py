from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers.sparse_encoder.models import SparseAutoEncoder
from torch import Tensor

from csr_model import ImportRefused
from csr_model.interop import import_adapter
from tests.support.random_adapter import assert_same_codes, random_rows


@pytest.fixture
def module() -> SparseAutoEncoder:
    """The official code's model: sentence-transformers holds the same class with the same names."""
    torch.manual_seed(4)
    module = SparseAutoEncoder(input_dim=16, hidden_dim=40, k=6, k_aux=8)
    torch.nn.init.normal_(module.latent_bias, 0, 0.1)
    return module.eval()


def official(module: SparseAutoEncoder) -> dict[str, Any]:
    """Return a checkpoint as the official code saves it: distributed, with backbone, optimizer and schedule."""
    state = module.state_dict() | {"pre_trained_backbone.fc.weight": torch.ones(3, 3)}
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=1)
    return {
        "epoch": 10,
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }


def assert_encodes_like(module: SparseAutoEncoder, file: Path) -> None:
    """Import the file and compare codes."""
    adapter, rows = import_adapter(file, k=6), random_rows(200, seed=15)
    with torch.inference_mode():
        theirs = module({"sentence_embedding": torch.from_numpy(rows)})["sentence_embedding"].numpy()
    assert_same_codes(adapter, rows, 6, theirs)
    adapter.verify_parity()


def test_official_checkpoint_becomes_an_adapter(module: SparseAutoEncoder, tmp_path: Path) -> None:
    """Who trained with the paper's code must be able to serve the result, backbone and wrappers left behind."""
    torch.save(official(module), tmp_path / "checkpoint_9.pth")
    assert_encodes_like(module, tmp_path / "checkpoint_9.pth")


def test_bare_state_dict_becomes_an_adapter(module: SparseAutoEncoder, tmp_path: Path) -> None:
    """A state_dict saved alone, as our messages advise, must be read too."""
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    assert_encodes_like(module, tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["encoder.weight", "decoder.linear.weight"])
def test_safetensors_of_csrv2_become_an_adapter(name: str, module: SparseAutoEncoder, tmp_path: Path) -> None:
    """CSRv2 stores the tied matrix once, under either of its names."""
    tensors = {key: tensor for key, tensor in module.state_dict().items() if not key.endswith(".weight")}
    save_file(tensors | {name: module.encoder.weight.detach()}, tmp_path / "csrv2.safetensors")
    assert_encodes_like(module, tmp_path / "csrv2.safetensors")


def test_k_must_be_given_and_fit(module: SparseAutoEncoder, tmp_path: Path) -> None:
    """A checkpoint does not hold its k; guessing one would make other codes than the author's."""
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ImportRefused, match="does not say its k"):
        import_adapter(tmp_path / "weights.pth")
    with pytest.raises(ImportRefused, match="k is 41; it must be a whole number within 1 … 40"):
        import_adapter(tmp_path / "weights.pth", k=41)
    for k in (3.0, "3", True):
        with pytest.raises(ImportRefused, match="it must be a whole number"):
            import_adapter(tmp_path / "weights.pth", k=k)  # type: ignore[arg-type]
    assert import_adapter(tmp_path / "weights.pth", k=np.int64(3)).levels == (1, 2, 3)  # type: ignore[arg-type]


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_checkpoint_never_runs_code(module: SparseAutoEncoder, tmp_path: Path) -> None:
    """A checkpoint from the internet must not be able to do anything on the machine that imports it."""
    torch.save(official(module) | {"args": Payload(tmp_path / "owned")}, tmp_path / "evil.pth")
    with pytest.raises(ImportRefused, match="more than tensors and plain values"):
        import_adapter(tmp_path / "evil.pth", k=6)
    assert not (tmp_path / "owned").exists()


def test_untied_decoder_is_refused(module: SparseAutoEncoder, tmp_path: Path) -> None:
    """An adapter has one matrix; a second one would be dropped without a word."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state["encoder.weight"][0, 0] += 1
    torch.save(state, tmp_path / "untied.pth")
    with pytest.raises(ImportRefused, match="differ; only tied decoders"):
        import_adapter(tmp_path / "untied.pth", k=6)


def contents(module: SparseAutoEncoder) -> dict[str, object]:
    """Return what a .pth may hold that is no checkpoint, by the message that it deserves."""
    no_stats: dict[str, Tensor] = {k: t for k, t in module.state_dict().items() if k != "stats_last_nonzero"}
    return {
        "lacks stats_last_nonzero": no_stats,
        "holds norm.weight, which": module.state_dict() | {"norm.weight": torch.ones(3)},
        "no state_dict of tensors": {"state_dict": {"epoch": 3}},
        "no state_dict": [1, 2, 3],
        "neither": {"state_dict": {}},
    }


@pytest.mark.parametrize("number", range(5))
def test_other_contents_are_refused(number: int, module: SparseAutoEncoder, tmp_path: Path) -> None:
    """A checkpoint of something else must be refused by name."""
    fault, content = list(contents(module).items())[number]
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ImportRefused, match=fault):
        import_adapter(tmp_path / "other.pth", k=6)


def test_damaged_and_unknown_files_are_refused(module: SparseAutoEncoder, tmp_path: Path) -> None:
    """A broken download or a file of another kind must end in one line, not in a traceback."""
    file = tmp_path / "cut.pth"
    torch.save(official(module), file)
    whole = file.read_bytes()
    for length in (0, 10, 500, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(ImportRefused, match="damaged"):
            import_adapter(file, k=6)
    file.write_bytes(b"this is no checkpoint at all")
    with pytest.raises(ImportRefused, match="damaged"):
        import_adapter(file, k=6)
    (tmp_path / "weights.bin").write_bytes(whole)
    with pytest.raises(ImportRefused, match="suffix"):
        import_adapter(tmp_path / "weights.bin", k=6)


def test_wrappers_of_wrappers_are_taken_off(module: SparseAutoEncoder, tmp_path: Path) -> None:
    """DataParallel within DistributedDataParallel writes its prefix twice."""
    state = {f"module.module.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save(state, tmp_path / "twice.pth")
    assert_encodes_like(module, tmp_path / "twice.pth")


@pytest.mark.parametrize("name", ["pre_bias", "encoder.weight"])
@pytest.mark.parametrize(
    "change",
    [Tensor.to_sparse, lambda t: torch.quantize_per_tensor(t.detach(), 0.1, 0, torch.qint8)],
    ids=["sparse", "quantised"],
)
def test_tensors_that_are_not_dense_are_refused(
    name: str, change: Callable[[Tensor], Tensor], module: SparseAutoEncoder, tmp_path: Path
) -> None:
    """Pruned and quantised models are common; they must end in one line that says what to do."""
    torch.save(module.state_dict() | {name: change(module.state_dict()[name])}, tmp_path / "other.pth")
    with pytest.raises(ImportRefused, match=f"{name} must be dense|damaged or holds more"):
        import_adapter(tmp_path / "other.pth", k=6)

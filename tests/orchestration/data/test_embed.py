import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestration.data.embed import BackboneFolder, embed_texts, longest_first
from orchestration.data.newsgroups20 import read_split
from orchestration.data.split import load_split
from orchestration.data.texts import LabelledTexts

REPOSITORY = Path(__file__).parents[3]
KILLED_RUN = """
import sys
from pathlib import Path
from orchestration.data.embed import BackboneFolder, embed_texts
from orchestration.data.newsgroups20 import read_split
newsgroups, minilm, cache = map(Path, sys.argv[1:])
texts = read_split(newsgroups, "train").sample(48, seed=0)
embed_texts("killed", texts, BackboneFolder(minilm, 256), cache, chunk_rows=1)
"""


@pytest.fixture(scope="module")
def texts(newsgroups: Path) -> LabelledTexts:
    """Real texts, few."""
    return read_split(newsgroups, "train").sample(48, seed=0)


@pytest.fixture(scope="module")
def backbone(minilm: Path) -> BackboneFolder:
    """The real backbone, cutting texts early to be quick."""
    return BackboneFolder(minilm, max_tokens=16)


def test_each_text_gets_its_own_embedding(texts: LabelledTexts, backbone: BackboneFolder, tmp_path: Path) -> None:
    """Sorting by length would hand texts the embeddings of others."""
    split = embed_texts("set-train", texts, backbone, tmp_path, chunk_rows=20)
    direct = backbone.loaded.embed(texts.texts, allow_truncation=True).embeddings
    assert (split.embeddings * direct).sum(axis=1).min() > 0.9999
    assert (tuple(split.ids), tuple(split.texts)) == (texts.ids, texts.texts)
    assert tuple(split.labels if split.labels is not None else ()) == texts.labels


def test_second_run_does_not_load_the_backbone(texts: LabelledTexts, backbone: BackboneFolder, tmp_path: Path) -> None:
    """Every demo would embed everything again."""
    first = embed_texts("set", texts.keep(range(3)), backbone, tmp_path)
    idle = BackboneFolder(backbone.path, backbone.max_tokens)
    second = embed_texts("set", texts.keep(range(3)), idle, tmp_path)
    assert "loaded" not in vars(idle)
    assert second.digest == first.digest
    assert [path.name for path in (tmp_path / "embeddings").iterdir() if not path.name.startswith(".")] == [
        path.parent.name for path in (tmp_path / "embeddings").rglob("split.json")
    ]


def test_other_texts_or_limits_are_other_embeddings(
    texts: LabelledTexts, backbone: BackboneFolder, tmp_path: Path
) -> None:
    """A changed sample or token limit would silently use old embeddings."""
    first = embed_texts("set", texts.keep([0, 1]), backbone, tmp_path)
    longer = embed_texts("set", texts.keep([0, 1]), BackboneFolder(backbone.path, 24), tmp_path)
    other = embed_texts("set", texts.keep([0, 2]), backbone, tmp_path)
    assert len({first.digest, longer.digest, other.digest}) == 3


def test_progress_is_drawn(texts: LabelledTexts, backbone: BackboneFolder, tmp_path: Path) -> None:
    """Minutes of work would look like a hang."""
    screen = StringIO()
    embed_texts("set-train", texts.keep(range(4)), backbone, tmp_path, Console(file=screen, width=100))
    assert "Embedding set-train" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_killed_run_goes_on_where_it_was(newsgroups: Path, minilm: Path, tmp_path: Path) -> None:
    """A killed run would leave half a data set, or start again from nothing."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED_RUN, str(newsgroups), str(minilm), str(tmp_path)]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (saved := sorted(tmp_path.rglob("chunks/*.npy"))) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("split.json"))

    # What the killed run saved is marked, to see it again in the result.
    marked = sorted(tmp_path.rglob("chunks/*.npy"))
    assert 1 <= len(saved) <= len(marked) < 48
    for path in marked:
        np.save(path, np.eye(1, 384, dtype=np.float16))
    texts = read_split(newsgroups, "train").sample(48, seed=0)
    split = embed_texts("killed", texts, BackboneFolder(minilm, 256), tmp_path, chunk_rows=1)
    reused = np.flatnonzero(split.embeddings[:, 0] == 1)
    assert sorted(reused) == sorted(longest_first(texts)[: len(marked)])
    (folder,) = (path.parent for path in tmp_path.rglob("split.json"))
    assert load_split(folder).digest == split.digest
    assert not list(tmp_path.rglob("chunks"))

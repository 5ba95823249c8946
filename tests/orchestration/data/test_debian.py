from pathlib import Path

import pytest

from orchestration.data import debian
from orchestration.data.cache import DataUnavailable

PACKAGES = """\
Package: zoo-tools
Source: zoo (1.0-1)
Description: tools for zoos
Description-md5: m1
Tag: role::program,
 use::editing

Package: zoo
Description: the zoo
Description-md5: m2

Package: lib-zoo
Source: zoo
Description: library of the zoo
Description-md5: m3

Package: short
Description: short
Description-md5: m4

Package: twin
Description: twin of lib-zoo
Description-md5: m5
"""


def long(words: str) -> str:
    """Return a description long enough to count, as two paragraphs of an index."""
    return f" {words}\n .\n {'and more ' * 16}\n"


TRANSLATIONS = "\n".join(
    [
        "Package: zoo-tools\nDescription-md5: m1\nDescription-en: tools for zoos\n" + long("Tools."),
        "Package: zoo\nDescription-md5: m2\nDescription-en: the zoo\n" + long("Animals: all of them."),
        "Package: lib-zoo\nDescription-md5: m3\nDescription-en: library of the zoo\n" + long("Functions."),
        "Package: short\nDescription-md5: m4\nDescription-en: short\n Too short.\n",
        "Package: twin\nDescription-md5: m5\nDescription-en: twin of lib-zoo\n" + long("Functions."),
    ]
)


@pytest.fixture
def indexes(tmp_path: Path) -> tuple[Path, Path]:
    """Both indexes, small."""
    (tmp_path / "packages").write_text(PACKAGES)
    (tmp_path / "translations").write_text(TRANSLATIONS)
    return tmp_path / "packages", tmp_path / "translations"


def test_stanzas_keep_continued_lines_and_colons(indexes: tuple[Path, Path]) -> None:
    """Descriptions would be cut after their first line."""
    first, second, *_ = debian.stanzas(indexes[0])
    assert first["Tag"] == "role::program,\nuse::editing"
    assert second["Package"] == "zoo"
    assert len(list(debian.stanzas(indexes[0]))) == 5


def test_one_package_of_a_source_and_no_text_twice(indexes: tuple[Path, Path]) -> None:
    """Queries would have several right answers of which only one counts."""
    ((package, synopsis, description),) = debian.descriptions_by_source(*indexes)
    assert (package, synopsis) == ("lib-zoo", "library of the zoo")
    assert description.startswith("Functions. and more and more")
    assert "\n" not in description


def test_a_damaged_cache_is_one_clear_line(tmp_path: Path) -> None:
    """The command would end in a traceback of a library."""
    (tmp_path / "descriptions.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataUnavailable, match=r"cannot be read .* delete it and run again"):
        debian.read(tmp_path)

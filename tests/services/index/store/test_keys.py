from services.index.store.keys import (
    CATALOG_REVISION,
    COLLECTIONS,
    PLACEMENT,
    UNFINISHED,
    partition_keys,
    partition_of,
)


def _tag(key: str) -> str:
    return key[key.index("{") + 1 : key.index("}")]


def test_ids_keep_their_partition_for_ever() -> None:
    """Otherwise documents written by one release could not be found, or would exist twice, in the next."""
    known = {"a": 3, "doc-1": 9, "Ω": 3, "": 0}
    assert {id: partition_of(id, 16) for id in known} == known


def test_the_keys_of_one_transaction_share_a_hash_tag() -> None:
    """Otherwise Redis Cluster would refuse every write."""
    keys = partition_keys("0123456789abcdef", 5).all()
    assert {_tag(key) for key in keys} == {"0123456789abcdef:5"}
    assert len(set(keys)) == 7
    assert {_tag(key) for key in (COLLECTIONS, UNFINISHED, CATALOG_REVISION, PLACEMENT)} == {"catalog"}

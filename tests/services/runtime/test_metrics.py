import itertools
import re

import pytest

from services.runtime.metrics import ALL, LATENCY_BUCKETS, MetricSpec, counter, gauge, histogram


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_names_follow_the_conventions_of_prometheus(spec: MetricSpec) -> None:
    """Dashboards and alerts would guess at units."""
    assert re.fullmatch(r"csr_[a-z_]+", spec.name)
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert spec.kind != "histogram" or spec.name.endswith("_seconds")
    assert spec.documentation.endswith(".")


def test_names_are_unique() -> None:
    """Two metrics under one name would stop a process at its first request."""
    assert len({spec.name for spec in ALL}) == len(ALL)


def test_labels_do_not_grow_with_traffic() -> None:
    """Ids or texts as labels would exhaust the memory of Prometheus."""
    bounded = {"method", "code", "phase", "status", "collection", "model", "version", "stage"}
    assert {label for spec in ALL for label in spec.labels} <= bounded


def test_a_metric_is_made_once() -> None:
    """A second use of a metric would fail as a duplicate."""
    makers = {"counter": counter, "gauge": gauge, "histogram": histogram}
    for spec in ALL:
        if spec.process != "encoder":  # Ray makes those
            assert makers[spec.kind](spec) is makers[spec.kind](spec)


def test_buckets_resolve_what_a_search_takes() -> None:
    """Percentiles between 0.1 ms and 10 s would be guesses."""
    assert list(LATENCY_BUCKETS) == sorted(LATENCY_BUCKETS)
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1]) == (0.0001, 10.0)
    assert all(high / low <= 2.5 for low, high in itertools.pairwise(LATENCY_BUCKETS))

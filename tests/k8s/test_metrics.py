"""What rules, dashboard, runbooks and autoscalers ask for is what a running service exports: names, labels, values."""

from __future__ import annotations

import shutil
import time

import pytest

from pgn.gateway.sync_metrics import sync_exposition
from pgn.settings import Settings
from pgn.store.local import SYNC_FILE, LocalStore
from pgn.store.sync import Failure, SyncState
from tests.k8s.known import FOREIGN, RECORDED, labels_of, missing
from tests.k8s.promql import everywhere, of_adapter, of_dashboard, of_keda, of_pages, of_rules, read
from tests.k8s.scrape import Series, ask_good_and_bad, series_of, watched_service, watched_training, whole_page
from tests.servers import call

SOURCES = {"rules": of_rules, "dashboard": of_dashboard, "pages": of_pages, "adapter": of_adapter, "keda": of_keda}


@pytest.fixture(scope="module")
def scraped(mixed_store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Series:
    """A service that was asked well and badly, a training, and a folder whose bucket lacks a version."""
    folder = tmp_path_factory.mktemp("scraped")
    store = LocalStore(shutil.copytree(mixed_store.root, folder / "store"))
    with watched_service(store, folder) as server:
        ask_good_and_bad(server, store)
        service = whole_page(server)
    with watched_training() as training:
        run = call("GET", f"http://127.0.0.1:{training.port}/metrics")[1].decode()
    state = SyncState(
        remote="s3://bucket",
        wanted_revision=7,
        served_revision=6,
        last_success=time.time(),
        failures=(Failure(dataset="pets", digest="ab", code="bundle.missing", message="not there"),),
        errors={"bundle.missing": 1},
    )
    (folder / SYNC_FILE).write_text(state.model_dump_json())
    sync = sync_exposition(Settings(store=folder, remote="s3://bucket")).decode()  # what /metrics appends with a bucket
    return series_of(service, run, sync)


@pytest.mark.parametrize("source", SOURCES)
def test_every_series_that_is_asked_for_is_in_a_real_scrape(source: str, scraped: Series) -> None:
    """A renamed metric, a label that is gone, a value that never comes: a panel would stay empty, an alert silent."""
    faults = [
        f"{expression.where}: {fault}"
        for expression in SOURCES[source]()
        for selector in expression.selectors
        if (fault := missing(selector, scraped))
    ]
    assert faults == []


@pytest.mark.parametrize("source", SOURCES)
def test_every_label_that_groups_or_joins_is_on_one_of_its_series(source: str, scraped: Series) -> None:
    """Grouping by a label that is not there makes one group of everything, without a word."""
    faults = [
        f"{expression.where}: no series has the label {label}"
        for expression in SOURCES[source]()
        for label in sorted(expression.labels - labels_of(expression, scraped))
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("pgn_redy == 0", "pgn_redy is exported by nobody"),
        ('pgn_fault{code="torchserve.tired"}', 'no series of pgn_fault has code="torchserve.tired"'),
        ('rate(pgn_lost_replies_total{stages="vit"}[5m])', 'no series of pgn_lost_replies_total has stages="vit"'),
        ('up{code="200"}', "up has no label code"),
    ],
)
def test_a_misspelt_name_label_or_value_is_found(expression: str, fault: str, scraped: Series) -> None:
    """What the tests above are worth."""
    assert [missing(selector, scraped) for selector in read("here", expression).selectors] == [fault]


def test_a_misspelt_label_of_a_group_is_found(scraped: Series) -> None:
    """The same for `by` and `on`."""
    expression = read("here", "sum by (job, stages) (rate(pgn_lost_replies_total[5m]))")
    assert expression.labels - labels_of(expression, scraped) == {"stages"}


def test_everything_that_is_recorded_is_asked_for() -> None:
    """A recording rule that nobody reads is paid for at every evaluation."""
    asked = {selector.name for expression in everywhere() for selector in expression.selectors}
    assert asked >= RECORDED


def test_the_list_of_foreign_metrics_holds_what_is_used_and_nothing_of_ours() -> None:
    """It is the one way past the scrape."""
    asked = {selector.name for expression in everywhere() for selector in expression.selectors}
    assert asked >= set(FOREIGN)
    assert not [name for name in FOREIGN if name.startswith(("pgn_", "ts_"))]

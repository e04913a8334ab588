"""What is counted, under which names, with which labels."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgn.gateway.metrics import PREDICTIONS, Metrics
from pgn.gateway.routes_predict import router
from pgn.gateway.sync_metrics import sync_exposition
from pgn.settings import Settings
from pgn.store.local import SYNC_FILE, LocalStore
from pgn.store.sync import Failure, SyncState
from tests.pgn.gateway.conftest import RunningGateway
from tests.pgn.gateway.scripted import ScriptedTorchServe
from tests.toys import make_images

IMAGE = make_images(1)[0]
NAMES = {
    "pgn_requests_total",
    "pgn_request_seconds_bucket",
    "pgn_stage_seconds_bucket",
    "pgn_decode_seconds_bucket",
    "pgn_in_flight",
    "pgn_upstream_retries_total",
    "pgn_ready",
    "pgn_datasets",
}


def samples(gateway: RunningGateway) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and label values."""
    text = gateway.http.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_request_is_counted_by_endpoint_data_set_and_status(gateway: RunningGateway) -> None:
    """Dashboards and alerts are built on these names."""
    gateway.gateway.metrics.retries.labels("pgn").inc(0)
    key = ("pgn_requests_total", ("200", "boats", "predict"))
    before = samples(gateway).get(key, 0)
    assert gateway.post(IMAGE, "boats").status_code == 200
    after = samples(gateway)
    assert after[key] == before + 1
    assert {name for name, _ in after} >= NAMES
    assert after["pgn_ready", ()] == 1
    assert after["pgn_in_flight", ()] == 0
    assert after["pgn_datasets", ("ready",)] == 3
    assert after["pgn_datasets", ("unavailable",)] == 1


def test_what_clients_make_up_never_becomes_a_label(gateway: RunningGateway) -> None:
    """One label value for each invented name would fill Prometheus."""
    gateway.post(IMAGE)
    gateway.post(b"", "birds")
    gateway.http.get("/nothing")
    gateway.http.post("/v1/predict?datasets=birds,digits", content=IMAGE)
    gateway.post(IMAGE, "invented-0")
    before = samples(gateway).keys()
    for number in range(1, 20):
        gateway.post(IMAGE, f"invented-{number}")
        gateway.post(IMAGE, f"birds/{number}")
        gateway.http.get(f"/v1/datasets/invented-{number}")
        gateway.http.get(f"/nothing/{number}")
        gateway.http.request(f"METHOD{number}", "/v1/predict")
    new = samples(gateway).keys() - before
    assert not any("invented" in str(key) for key in new)
    assert {key for key in new if key[0] == "pgn_requests_total"} <= {
        ("pgn_requests_total", ("", "404", "show_dataset")),
        ("pgn_requests_total", ("", "405", "predict_several")),
        ("pgn_requests_total", ("", "404", "unknown")),
        ("pgn_requests_total", ("", "405", "unknown")),
    }


def test_every_refusal_is_counted_by_its_code(gateway: RunningGateway) -> None:
    """A status says that somebody was refused; the code says for what."""
    before = samples(gateway)
    gateway.post(IMAGE, "invented")
    gateway.post(b"", "birds")
    after = samples(gateway)
    for code in ("dataset.unknown", "request.empty"):
        key = ("pgn_errors_total", (code,))
        assert after[key] == before.get(key, 0) + 1


def test_the_time_of_good_answers_is_not_mixed_with_that_of_refusals(gateway: RunningGateway) -> None:
    """A refusal takes no time: counted together, a service that refuses everybody would be the quickest."""
    before = samples(gateway)
    gateway.post(IMAGE)
    gateway.post(IMAGE, "invented")
    after = samples(gateway)
    for outcome in ("ok", "refused"):
        key = ("pgn_request_seconds_count", tuple(sorted(("predict", outcome))))
        assert after[key] == before[key] + 1


def test_what_alerts_count_is_shown_before_it_happens() -> None:
    """A rate never sees the event with which its series appears, and the first failures may be the only ones."""
    found = {
        (sample.name, *sample.labels.values())
        for family in text_string_to_metric_families(Metrics().exposition().decode())
        for sample in family.samples
    }
    for endpoint in PREDICTIONS:
        for outcome in ("ok", "refused", "failed"):
            assert ("pgn_request_seconds_count", endpoint, outcome) in found
    for stage in ("pgn", "vit"):
        assert ("pgn_lost_replies_total", stage) in found
        assert ("pgn_upstream_retries_total", stage) in found
    for whom in ("index", "stages"):
        assert ("pgn_follow_errors_total", whom) in found


def test_the_end_points_of_predictions_are_those_of_the_routes() -> None:
    """The objectives are about all of them, also about one that is added."""
    assert sorted(PREDICTIONS) == sorted(route.name for route in router.routes)


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "ok"), (429, "refused"), (499, "refused"), (503, "failed"), (0, "failed")]
)
def test_only_what_the_service_could_not_do_has_failed(status: int, outcome: str) -> None:
    """A client's own mistakes use up nobody's error budget; no answer at all does."""
    metrics = Metrics()
    metrics.answered("predict", "", status, 0.1)
    assert f'pgn_request_seconds_count{{endpoint="predict",outcome="{outcome}"}} 1.0' in metrics.exposition().decode()


def test_what_the_gateway_accepts_and_which_one_it_is_are_shown(gateway: RunningGateway) -> None:
    """In flight means little without its limit, and a fault little without the version that has it."""
    found = samples(gateway)
    assert found["pgn_in_flight_limit", ()] == gateway.gateway.in_flight.limit
    assert [key for key in found if key[0] == "pgn_gateway_info"]


@pytest.mark.parametrize("page", [b"ts_a{", b"\xff\xfe", b"<html>", b"Requests2XX 1\n"])
def test_a_torchserve_that_talks_nonsense_spoils_no_scrape(
    gateway: RunningGateway, scripted: ScriptedTorchServe, page: bytes
) -> None:
    """The rest is told all the same, and what is told can be read."""
    scripted.metrics_page = page
    assert ("pgn_ready", ()) in samples(gateway)


def test_torchserves_own_metrics_are_on_the_page(gateway: RunningGateway, scripted: ScriptedTorchServe) -> None:
    """Its port is on loopback, where no Prometheus asks."""
    scripted.metrics_page = b'# TYPE ts_queue counter\nts_queue{model_name="pgn__pgn"} 3.5\nRequests2XX 1\n'
    lines = gateway.http.get("/metrics").text.splitlines()
    assert 'ts_queue{model_name="pgn__pgn"} 3.5' in lines
    assert "Requests2XX 1" not in lines


def test_the_sync_is_told_as_its_file_says(store: LocalStore, tmp_path: Path) -> None:
    """A folder that falls behind its bucket is seen from outside."""
    state = SyncState(
        remote="s3://bucket",
        wanted_revision=7,
        served_revision=6,
        last_success=time.time() - 60,
        failures=(Failure(dataset="pets", digest="ab", code="x", message="y"),),
        errors={"store.unavailable": 3},
    )
    (tmp_path / SYNC_FILE).write_text(state.model_dump_json())
    text = sync_exposition(Settings(store=tmp_path, remote="s3://bucket")).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found.pop(("pgn_sync_age_seconds",)) >= 60
    assert found == {
        ("pgn_sync_failing",): 0,
        ("pgn_sync_missing_versions",): 1,
        ("pgn_sync_revision", "wanted"): 7,
        ("pgn_sync_revision", "served"): 6,
        ("pgn_sync_errors_total", "store.unavailable"): 3,
    }
    assert sync_exposition(Settings(store=store.root)) == b""

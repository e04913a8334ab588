"""What is counted, under which names, with which labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.pgn.gateway.conftest import RunningGateway
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

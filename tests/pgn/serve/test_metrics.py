"""The metrics of the whole service, as Prometheus scrapes them, and drift where another set's images come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits

from tests.served import Served, served
from tests.servers import ROOT, call, make_settings, wait_until
from tests.toys import make_images, png

DIGITS = 'pgn_prompt_drift{dataset="digits"}'
IMAGES = 'pgn_prompt_drift_images{dataset="digits"}'
NOISE = 'pgn_prompt_drift_noise{dataset="digits"}'


def digit_images(count: int) -> list[bytes]:
    """Pictures like those that the shipped bundle was trained on."""
    grey = np.round(load_digits().images[:count] * (255 / 16)).astype(np.uint8)
    return [png(Image.fromarray(picture).convert("RGB")) for picture in grey]


def send(server: Served, images: list[bytes]) -> None:
    for image in images:
        assert call("POST", f"{server.url}/v1/datasets/digits/predict", image)[0] == 200


def settled(server: Served, images: float) -> float:
    """The drift once the gauge rests on so many images."""
    wait_until(lambda: server.metric(IMAGES) >= images, f"a drift of {images} images", 30)
    return server.metric(DIGITS)


def test_one_scrape_tells_of_gateway_stages_and_torchserve_and_drift_rises(tmp_path: Path) -> None:
    """The shipped digits bundle reads digits, then pictures of something else: nobody had to label them."""
    with served(make_settings(ROOT / "model_store", tmp_path)) as server:
        server.wait_ready()
        send(server, digit_images(64))
        like_training = settled(server, 60)
        noise = server.metric(NOISE)
        send(server, make_images(128))
        foreign = settled(server, 160)
        assert like_training < 2 * noise
        assert foreign > 2 * like_training

        text = call("GET", f"{server.url}/metrics")[1].decode()
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        names = {name for name, *_ in samples}
        assert samples["pgn_requests_total", ("code", "200"), ("dataset", "digits"), ("endpoint", "predict")] == 192
        for stage in ("pgn", "vit"):
            assert samples["pgn_stage_images_total", ("stage", stage)] == 192
            assert samples["pgn_stage_queue_seconds_count", ("stage", stage)] >= 192
            assert samples["pgn_stage_index_revision", ("stage", stage)] == server.metric("pgn_index_revision")
            assert samples["pgn_bank_versions", ("stage", stage), ("state", "ready")] >= 1
        assert names >= {"pgn_stage_info", "pgn_gateway_info", "pgn_torchserve_threads", "pgn_in_flight_limit"}
        for own in ("ts_inference_latency_microseconds", "ts_queue_latency_microseconds"):
            assert f"\n{own}{{" in text
        assert len(samples) == sum(len(family.samples) for family in text_string_to_metric_families(text))

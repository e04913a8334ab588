"""Who may come in: the layers as they stand around every gateway, over one route of each kind."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st

from pgn.errors import SetupError
from pgn.gateway.audit import Audit
from pgn.gateway.draining import Draining
from pgn.gateway.edge import answer_errors
from pgn.gateway.keys import new_key, revoke_key
from pgn.gateway.layers import add_layers
from pgn.gateway.metrics import Metrics
from pgn.settings import Settings
from tests.pgn.gateway.conftest import StartGateway
from tests.servers import wait_until
from tests.toys import make_images


class Service:
    """An application behind the layers, asked in process."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(poll_s=1e-9, **settings)
        self.metrics, self.draining = Metrics(), Draining()
        self.app = FastAPI()
        self.release, self.inside = asyncio.Event(), asyncio.Event()
        self.app.post("/v1/datasets/{dataset}/predict")(self._predict)
        self.app.put("/v1/datasets/{dataset}")(self._put)
        self.app.get("/v1/datasets")(self._list)
        self.app.get("/livez")(self._livez)
        answer_errors(self.app)
        add_layers(self.app, self.settings, self.metrics, Audit(self.settings.audit_log), self.draining)

    async def _predict(self, request: Request, dataset: str) -> dict[str, str]:
        request.state.principal.require(dataset)
        self.inside.set()
        if dataset == "slow":
            await self.release.wait()
        return {"who": request.state.principal.name}

    async def _put(self, request: Request, dataset: str) -> dict[str, str]:
        request.state.principal.require_admin(dataset)
        return {"who": request.state.principal.name}

    async def _list(self, request: Request) -> list[str]:
        return [name for name in ("digits", "flowers") if request.state.principal.may_ask(name)]

    async def _livez(self) -> dict[str, str]:
        return {"status": "alive"}

    def ask(self, method: str, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        """One request."""
        return asyncio.run(self.send(method, path, key, **headers))

    async def send(self, method: str, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        """The same in a running loop."""
        transport = httpx.ASGITransport(self.app, client=("10.1.2.3", 4567))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, headers=named)

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


PREDICT, PUT = ("POST", "/v1/datasets/digits/predict"), ("PUT", "/v1/datasets/digits")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file of keys is."""
    return tmp_path / "keys.toml"


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


class TestKeys:
    """With a file of keys."""

    def test_a_key_opens_in_either_header(self, file: Path) -> None:
        """Bearer is the standard's way, X-API-Key what many clients can send."""
        service = Service(keys=(key := new_key(file, "team-a")) and file)
        assert service.ask(*PREDICT, key).json() == {"who": "team-a"}
        assert service.ask(*PREDICT, X_API_Key=key).json() == {"who": "team-a"}
        assert service.ask(*PREDICT, Authorization=f"bearer  {key} ").json() == {"who": "team-a"}

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer"}, {"Authorization": "Basic YTpi"}])
    def test_without_a_key_the_answer_says_how_to_send_one(self, file: Path, headers: dict[str, str]) -> None:
        """WWW-Authenticate is what libraries act on, the hint what people read."""
        new_key(file, "team-a")
        response = Service(keys=file).ask(*PREDICT, **headers)
        assert code(response) == (401, "key.missing")
        assert response.headers["www-authenticate"] == 'Bearer realm="pgn"'
        assert response.headers["x-request-id"] == response.json()["error"]["request_id"]
        assert "X-API-Key" in response.json()["error"]["hint"]

    @given(given_key=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])).filter(str.strip))
    def test_a_wrong_key_is_refused_whatever_it_is(
        self, given_key: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """No text of a client's may turn into a fault of the server's; nor is it repeated to anybody."""
        file = tmp_path_factory.mktemp("keys") / "keys.toml"
        new_key(file, "team-a")
        transport_safe = given_key.encode("latin-1")
        service = Service(keys=file)

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(service.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(PREDICT[1], headers=[(b"X-API-Key", transport_safe)])

        response = asyncio.run(send())
        assert code(response) in ((401, "key.refused"), (401, "key.missing"))

    def test_a_revoked_key_is_refused_from_the_next_look_on(self, file: Path) -> None:
        """Without a restart, and the log of audits knows of the change."""
        key = new_key(file, "team-a")
        service = Service(keys=file, audit_log=file.with_name("audit"))
        assert service.ask(*PREDICT, key).status_code == 200
        revoke_key(file, "team-a")
        response = service.ask(*PREDICT, key)
        assert code(response) == (401, "key.refused")
        assert "invalid_token" in response.headers["www-authenticate"]
        assert service.count("pgn_key_reloads_total", outcome="done") == 1
        (line,) = map(json.loads, file.with_name("audit").read_text().splitlines())
        assert (line["act"], line["outcome"], line["keys"]) == ("reload keys", "done", 0)

    def test_a_broken_file_is_counted_and_locks_nobody_out(self, file: Path) -> None:
        """An alert can be set on the count."""
        key = new_key(file, "team-a")
        service = Service(keys=file, audit_log=file.with_name("audit"))
        file.write_text("[[key]")
        assert service.ask(*PREDICT, key).status_code == 200
        assert service.count("pgn_key_reloads_total", outcome="failed") == 1

    def test_a_key_asks_and_sees_its_own_data_sets(self, file: Path) -> None:
        """Whether another data set exists is not told."""
        key = new_key(file, "team-a", datasets=["digits"])
        service = Service(keys=file)
        assert service.ask(*PREDICT, key).status_code == 200
        for other in ("flowers", "no-such-thing"):
            assert code(service.ask("POST", f"/v1/datasets/{other}/predict", key)) == (403, "key.forbidden")
        assert service.ask("GET", "/v1/datasets", key).json() == ["digits"]

    def test_only_an_administrators_key_changes_what_is_served(self, file: Path) -> None:
        """And only within its data sets."""
        plain, boss = new_key(file, "team-a"), new_key(file, "boss", admin=True, datasets=["digits"])
        service = Service(keys=file, audit_log=file.with_name("audit"))
        assert service.ask(*PUT, boss).json() == {"who": "boss"}
        assert code(service.ask(*PUT, plain)) == (403, "key.forbidden")
        assert code(service.ask("PUT", "/v1/datasets/flowers", boss)) == (403, "key.forbidden")

    def test_health_and_documents_need_no_key(self, file: Path) -> None:
        """Probes have none."""
        new_key(file, "team-a")
        for path in ("/livez", "/openapi.json"):
            assert Service(keys=file).ask("GET", path).status_code == 200

    def test_a_file_that_cannot_be_read_is_met_before_anything_is_served(self, file: Path) -> None:
        """A misspelt path must not open the door."""
        with pytest.raises(SetupError, match="cannot be read"):
            Service(keys=file)


class TestLimits:
    """Rate and requests in flight of a key."""

    def test_beyond_its_rate_a_key_is_told_when_to_come_back(self, file: Path) -> None:
        """429 with Retry-After, counted by key; another key is not touched."""
        eager, other = new_key(file, "eager", rate=0.01, burst=2), new_key(file, "other", rate=0.01, burst=1)
        service = Service(keys=file)
        assert [service.ask(*PREDICT, eager).status_code for _ in range(3)] == [200, 200, 429]
        response = service.ask(*PREDICT, eager)
        assert code(response) == (429, "key.too_many_requests")
        assert 90 <= int(response.headers["retry-after"]) <= 100
        assert service.ask(*PREDICT, other).status_code == 200
        assert service.count("pgn_throttled_requests_total", key="eager") == 2

    def test_beyond_its_concurrency_a_key_is_refused_until_an_answer_is_out(self, file: Path) -> None:
        """One caller cannot fill the whole door."""
        key = new_key(file, "team-a", concurrency=1)
        service = Service(keys=file)

        async def ask() -> list[int]:
            first = asyncio.create_task(service.send("POST", "/v1/datasets/slow/predict", key))
            await service.inside.wait()
            second = await service.send(*PREDICT, key)
            service.release.set()
            return [(await first).status_code, second.status_code, (await service.send(*PREDICT, key)).status_code]

        assert asyncio.run(ask()) == [200, 429, 200]


class TestWithoutKeys:
    """Nobody is asked for a key."""

    def test_everybody_on_this_machine_may_do_everything(self) -> None:
        """Whoever can reach loopback could also write the model store."""
        service = Service()
        assert service.ask(*PREDICT).json() == {"who": "anonymous"}
        assert service.ask(*PUT).status_code == 200

    def test_beyond_loopback_nobody_is_an_administrator(self) -> None:
        """A proxy that checks who asks knows nothing of what is asked."""
        service = Service(host="0.0.0.0", anonymous=True)
        assert service.ask(*PREDICT).status_code == 200
        assert code(service.ask(*PUT)) == (403, "key.forbidden")

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 200),
            ({"Host": "localhost:8000"}, 200),
            ({"Host": "[::1]:8000"}, 200),
            ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}, 200),  # our own /docs
            ({"Origin": "https://trusted.example"}, 200),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Host": "evil.example"}, 403),  # a name made to point at loopback
            ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
            ({"Host": "["}, 403),
            ({"Origin": "http://["}, 403),
        ],
    )
    def test_a_web_page_in_the_browser_is_no_administrator(self, headers: dict[str, str], status: int) -> None:
        """A browser on the machine sends what any page asks of it, to loopback too."""
        service = Service(cors_origins=("https://trusted.example",))
        assert service.ask(*PUT, **headers).status_code == status


class TestAudit:
    """Refused administrative requests."""

    def test_who_tried_is_written_down(self, file: Path) -> None:
        """With key or address; predictions are not administrative."""
        plain = new_key(file, "team-a", datasets=["digits"])
        log = file.with_name("audit")
        service = Service(keys=file, audit_log=log)
        for key in (None, "wrong", plain):
            service.ask(*PUT, key, X_Request_Id="abc")
            service.ask(*PREDICT, key)
            service.ask("POST", "/v1/datasets/flowers/predict", key)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(line["who"], line["reason"]) for line in lines] == [
            ("anonymous", "401 to PUT /v1/datasets/digits"),
            ("anonymous", "401 to PUT /v1/datasets/digits"),
            ("team-a", "403 to PUT /v1/datasets/digits"),
        ]
        for line in lines:
            assert (line["outcome"], line["request_id"], line["address"]) == ("refused", "abc", "10.1.2.3")
        assert lines[-1]["dataset"] == "digits"
        assert "wrong" not in log.read_text()

    def test_a_flood_of_refusals_does_not_fill_the_disk(self, file: Path) -> None:
        """What is left out is counted in the next line."""
        new_key(file, "team-a")
        log = file.with_name("audit")
        service = Service(keys=file, audit_log=log)

        async def flood() -> None:
            for _ in range(300):
                await service.send(*PUT)

        asyncio.run(flood())
        assert 100 <= len(log.read_text().splitlines()) < 200


class TestCors:
    """Web pages of other origins."""

    def test_off_by_default(self) -> None:
        """A page may ask only if the operator says so."""
        response = Service().ask("GET", "/v1/datasets", Origin="https://page.example")
        assert "access-control-allow-origin" not in response.headers

    def test_a_named_origin_may_ask_and_preflight_needs_no_key(self, file: Path) -> None:
        """A browser sends the preflight without one; an error has to be readable, too."""
        key = new_key(file, "team-a")
        service = Service(keys=file, cors_origins=("https://page.example",))
        origin = {"Origin": "https://page.example"}
        preflight = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
        assert service.ask("OPTIONS", PREDICT[1], **origin, **preflight).status_code == 200
        assert service.ask("OPTIONS", PREDICT[1], Origin="https://evil.example", **preflight).status_code == 400
        for response in (service.ask(*PREDICT, key, **origin), service.ask(*PREDICT, **origin)):
            assert response.headers["access-control-allow-origin"] == "https://page.example"
            assert "X-Request-Id" in response.headers["access-control-expose-headers"]


OPEN = {"/livez", "/livez/torchserve", "/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"}


def test_every_end_point_but_the_named_ones_needs_a_key(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Whoever adds an end point has to choose, and the default is closed."""
    key = new_key(tmp_path / "keys.toml", "team-a")
    running = start_gateway(keys=tmp_path / "keys.toml")
    routes = running.http.get("/openapi.json").json()["paths"]
    assert len(routes) > 5
    for path, operations in routes.items():
        for method in operations:
            answer = running.http.request(method, path.replace("{dataset}", "birds"))
            assert (answer.status_code == 401) == (path not in OPEN), f"{method} {path}: {answer.status_code}"
    assert running.post(make_images(1)[0], headers={"X-API-Key": key}).status_code == 200


def test_a_reload_under_load_refuses_no_good_key(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Keys come and go while requests flow."""
    file = tmp_path / "keys.toml"
    key = new_key(file, "team-a")
    running = start_gateway(keys=file, poll_s=0.001)
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.url, headers={"X-API-Key": key}) as http:
            while not done.is_set():
                statuses.append(http.get("/v1/datasets").status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: bool(statuses), "the first answer")
    for number in range(20):
        new_key(file, f"other-{number}")
    done.set()
    thread.join(30)
    assert set(statuses) == {200}

"""The client: one method for each thing the gateway is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx
from typing_extensions import Self

from pgn.client.results import Dataset, Prediction, Readiness, Result
from pgn.errors import DeadlineExceeded, PgnError, ServiceError, UsageError, from_wire

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_BYTES: Final = {"Content-Type": "application/octet-stream"}


class Client:
    """Asks one gateway, over connections that are kept open; may be used by several threads.

    Args:
        url: Where the gateway listens.
        timeout_s: Seconds to wait for a connection, and for any part of an answer. The gateway answers or refuses
            within its own deadline, 10 s by default.
        transport: Another way to reach the gateway than a socket.

    Every method raises the errors of `pgn.errors` that the gateway names, DeadlineExceeded where the answer is late
    and ServiceError where nobody answers.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, timeout_s: float = 30.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, image: bytes | Path, dataset: str, *, top_k: int | None = None) -> Result:
        """What the data set's PGN sees in an encoded image, given as bytes or as a file."""
        return self._ask(f"/v1/datasets/{quote(dataset, safe='')}/predict", image, {}, top_k)[0]

    def predict_many(self, image: bytes | Path, datasets: Sequence[str], *, top_k: int | None = None) -> list[Result]:
        """What each data set's PGN sees in one image, in the order of `datasets`."""
        return self._ask("/v1/predict", image, {"datasets": ",".join(datasets)}, top_k)

    def predict_prompted(self, image: bytes | Path, dataset: str, *, top_k: int | None = None) -> Result:
        """What the frozen ViT alone, read out by the data set's head, sees in a prompted image (`pgn invert`)."""
        return self._ask("/v1/backbone/predict", image, {"dataset": dataset}, top_k)[0]

    def features(self, image: bytes | Path) -> tuple[float, ...]:
        """The frozen ViT's features of a prompted image, or of a PNG of exactly its size."""
        response = self._send("POST", "/v1/backbone/predict", content=_read(image), headers=_BYTES)
        return tuple(_field(response, "features")[0])

    def datasets(self) -> list[Dataset]:
        """What is served, without the classes' names."""
        return [_dataset(fields) for fields in _field(self._send("GET", "/v1/datasets"), "datasets")]

    def dataset(self, name: str) -> Dataset:
        """One data set, with its classes' names."""
        response = self._send("GET", f"/v1/datasets/{quote(name, safe='')}")
        _field(response, "classes")
        return _dataset(response.json())

    def ready(self) -> Readiness:
        """Whether requests are answered; nobody listening is an error, not an answer."""
        response = self._send("GET", "/readyz")
        fields = _json(response)
        if "ready" not in fields:
            raise _error(response)
        return Readiness(fields["ready"], tuple(fields["reasons"]))

    def _ask(self, path: str, image: bytes | Path, query: Mapping[str, str], top_k: int | None) -> list[Result]:
        params = {**query, **({} if top_k is None else {"top_k": str(top_k)})}
        response = self._send("POST", path, params=params, content=_read(image), headers=_BYTES)
        return [_result(fields) for fields in _field(response, "results")]

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **content)
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"{self.url} gave no answer within {self._timeout_s:g} s") from error
        except httpx.ConnectError as error:
            raise ServiceError(f"nobody answers at {self.url}: {error}", hint="`pgn serve` starts a service") from error
        except httpx.UnsupportedProtocol as error:
            raise UsageError(f"{self.url!r} is no URL; it has to start with http:// or https://") from error
        except httpx.TransportError as error:
            raise ServiceError(f"{self.url} broke off its answer: {error or type(error).__name__}") from error


def _read(image: bytes | Path) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise UsageError(f"{image} cannot be read: {error.strerror}") from error


def _field(response: httpx.Response, name: str) -> Any:
    fields = _json(response)
    if not response.is_success or name not in fields:
        raise _error(response)
    return fields[name]


def _error(response: httpx.Response) -> PgnError:
    fields = _json(response).get("error")
    if isinstance(fields, dict):
        return from_wire(fields)
    return ServiceError(
        f"{response.url} answers {response.status_code} {response.reason_phrase}, not as a PGN gateway does",
        hint="is this the address of a gateway?",
    )


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        fields = response.json()
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _result(fields: Mapping[str, Any]) -> Result:
    predictions = tuple(Prediction(each["label"], each["probability"]) for each in fields["predictions"])
    return Result(fields["dataset"], fields["version"], predictions)


def _dataset(fields: Mapping[str, Any]) -> Dataset:
    return Dataset(
        name=fields["name"],
        version=fields["version"],
        state=fields["state"],
        reason=fields["reason"],
        num_classes=fields["num_classes"],
        classes=tuple(fields.get("classes", ())),
    )

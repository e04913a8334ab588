"""The client: one method for each thing the gateway is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx
from typing_extensions import Self

from pgn.client.results import Change, Dataset, Prediction, Readiness, Result, Version
from pgn.errors import DeadlineExceeded, PgnError, RequestError, ServiceError, UsageError, from_wire

DEFAULT_URL: Final = "http://127.0.0.1:8000"
KEY_VARIABLE: Final = "PGN_API_KEY"
_BYTES: Final = {"Content-Type": "application/octet-stream"}
# Of one request of `predict_all`: below the limits that a service has if nobody sets others.
_GROUP_IMAGES: Final = 16
_GROUP_BYTES: Final = 8 * 2**20

Image = bytes | Path


class Client:
    """Asks one gateway, over connections that are kept open; may be used by several threads.

    Args:
        url: Where the gateway listens.
        key: API key; None takes the environment's PGN_API_KEY, if it is set.
        timeout_s: Seconds that a call may take. The gateway answers or refuses within its own deadline, 10 s by
            default; what it refuses with a Retry-After (overloaded, starting, over the key's rate) is tried again
            after that time, as long as there is some left.
        transport: Another way to reach the gateway than a socket.

    Every method raises the errors of `pgn.errors` that the gateway names, DeadlineExceeded where the answer is late
    and ServiceError where nobody answers.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        key = os.environ.get(KEY_VARIABLE) if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, image: Image, dataset: str, *, top_k: int | None = None, embedding: bool = False) -> Result:
        """What the data set's PGN sees in an encoded image, given as bytes or as a file."""
        return self._ask(f"{_path(dataset)}/predict", [image], _query(top_k, embedding))[0][0]

    def predict_many(
        self, image: Image, datasets: Sequence[str], *, top_k: int | None = None, embedding: bool = False
    ) -> list[Result]:
        """What each data set's PGN sees in one image, in the order of `datasets`."""
        return self.predict_batch([image], datasets, top_k=top_k, embedding=embedding)[0]

    def predict_batch(
        self, images: Sequence[Image], datasets: Sequence[str], *, top_k: int | None = None, embedding: bool = False
    ) -> list[list[Result]]:
        """For each image what each data set's PGN sees in it, all in one request.

        Args:
            images: Encoded, as bytes or as files. The service limits their number, to 32 if nothing else is set.
            datasets: Who is asked about every image.
            top_k: Classes in a result; None leaves it to the service.
            embedding: Also give the features that the heads read.
        """
        return self._ask("/v1/predict", images, {"datasets": ",".join(datasets), **_query(top_k, embedding)})

    def predict_all(
        self, images: Iterable[Image], datasets: Sequence[str], *, top_k: int | None = None, embedding: bool = False
    ) -> Iterator[list[Result]]:
        """`predict_batch` for any number of images, in as many requests as they need.

        An image that is refused is named by its file, once the results of those before it have been yielded.
        """
        ask = partial(self.predict_batch, datasets=datasets, top_k=top_k, embedding=embedding)
        for group in _groups(images):
            try:
                answers = ask([data for _, data in group])
            except RequestError:  # one by one, to find out which
                for name, data in group:
                    with _naming(name):
                        yield ask([data])[0]
            else:
                yield from answers

    def predict_prompted(self, image: Image, dataset: str, *, top_k: int | None = None) -> Result:
        """What the frozen ViT alone, read out by the data set's head, sees in a prompted image (`pgn invert`)."""
        return self._ask("/v1/backbone/predict", [image], {"dataset": dataset, **_query(top_k)})[0][0]

    def features(self, image: Image) -> tuple[float, ...]:
        """The frozen ViT's features of a prompted image, or of a PNG of exactly its size."""
        return tuple(_field(self._send("POST", "/v1/backbone/predict", **_images([image])), "features")[0])

    def datasets(self) -> list[Dataset]:
        """What is served, as far as the key may ask it; without the classes' names."""
        return [_dataset(fields) for fields in _field(self._send("GET", "/v1/datasets"), "datasets")]

    def dataset(self, name: str) -> Dataset:
        """One data set, with its classes' names."""
        response = self._send("GET", _path(name))
        _field(response, "classes")
        return _dataset(response.json())

    def put(
        self, name: str, bundle: bytes | Path, *, share: float = 1.0, signature: bytes | Path | None = None
    ) -> Change:
        """Serve a bundle as the data set `name`, which is what its manifest has to call it; needs an admin's key.

        Args:
            name: The data set.
            bundle: Its bytes, or its file.
            share: Of the data set's traffic; below 1 what is served stays beside it and divides the rest.
            signature: Where the service wants one (`pgn sign`).
        """
        content: dict[str, Any] = {"content": _read(bundle), "headers": _BYTES}
        if signature is not None:
            content = {"files": {"bundle": _read(bundle), "signature": _read(signature)}}
        return _change(self._send("PUT", _path(name), params={"share": share}, **content))

    def remove(self, name: str) -> Change:
        """Serve the data set no more, and delete its bundles; needs an admin's key."""
        return _change(self._send("DELETE", _path(name), patient=False))

    def rollback(self, name: str) -> Change:
        """Take the data set's newest version back; needs an admin's key."""
        return _change(self._send("POST", f"{_path(name)}/rollback", patient=False))  # twice would be one too far

    def ready(self) -> Readiness:
        """Whether requests are answered; nobody listening is an error, not an answer."""
        response = self._send("GET", "/readyz")
        fields = _json(response)
        if "ready" not in fields:
            raise _error(response)
        return Readiness(fields["ready"], tuple(fields["reasons"]))

    def _ask(self, path: str, images: Sequence[Image], query: Mapping[str, str]) -> list[list[Result]]:
        answers: list[list[Result]] = [[] for _ in images]
        for fields in _field(self._send("POST", path, params=query, **_images(images)), "results"):
            answers[fields["image"]].append(_result(fields))
        return answers

    def _send(self, method: str, path: str, *, patient: bool = True, **content: Any) -> httpx.Response:
        end = time.monotonic() + self._timeout_s
        while True:
            left_s = end - time.monotonic()
            response = self._send_once(method, path, timeout=max(left_s, 0.001), **content)
            wait_s = _retry_after_s(response)
            if not patient or wait_s is None or time.monotonic() + wait_s >= end:
                return response
            time.sleep(wait_s)

    def _send_once(self, method: str, path: str, **content: Any) -> httpx.Response:
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


def _path(dataset: str) -> str:
    return f"/v1/datasets/{quote(dataset, safe='')}"


def _query(top_k: int | None, embedding: bool = False) -> dict[str, str]:
    asked = {"top_k": None if top_k is None else str(top_k), "embedding": "true" if embedding else None}
    return {name: value for name, value in asked.items() if value is not None}


def _groups(images: Iterable[Image]) -> Iterator[list[tuple[str, bytes]]]:
    """Images with their names, as many together as a request may hold if the service has its usual limits."""
    group: list[tuple[str, bytes]] = []
    size = 0
    for place, image in enumerate(images, start=1):
        data = _read(image)
        if group and (len(group) == _GROUP_IMAGES or size + len(data) > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append((f"image {place}" if isinstance(image, bytes) else str(image), data))
        size += len(data)
    if group:
        yield group


@contextmanager
def _naming(image: str) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise type(error)(f"{image}: {error.message}", hint=error.hint) from error


def _images(images: Sequence[Image]) -> dict[str, Any]:
    if len(images) == 1:
        return {"content": _read(images[0]), "headers": _BYTES}
    return {"files": [("image", _read(image)) for image in images]}


def _read(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds after which the service says that it may be tried again."""
    value = response.headers.get("retry-after", "")
    return float(value) if response.status_code in (429, 503) and value.isdecimal() else None


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
    embedding = fields.get("embedding")
    return Result(
        dataset=fields["dataset"],
        version=fields["version"],
        predictions=tuple(Prediction(each["label"], each["probability"]) for each in fields["predictions"]),
        unknown=fields.get("unknown", False),
        embedding=None if embedding is None else tuple(embedding),
    )


def _version(fields: Mapping[str, Any]) -> Version:
    known: dict[str, Any] = {name: fields.get(name) for name in Version.__dataclass_fields__}
    return Version(**known)


def _dataset(fields: Mapping[str, Any]) -> Dataset:
    return Dataset(
        name=fields["name"],
        version=fields["version"],
        state=fields["state"],
        reason=fields["reason"],
        num_classes=fields["num_classes"],
        versions=tuple(_version(each) for each in fields.get("versions", ())),
        previous=tuple(fields.get("previous", ())),
        classes=tuple(fields.get("classes", ())),
    )


def _change(response: httpx.Response) -> Change:
    _field(response, "revision")
    fields = response.json()
    return Change(
        dataset=fields["dataset"],
        revision=fields["revision"],
        state=fields["state"],
        reason=fields["reason"],
        versions=tuple(_version(each) for each in fields["versions"]),
    )

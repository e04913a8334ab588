"""One prefix of a bucket: reading, conditional writing, large files in parts. Knows nothing of bundles.

boto3 finds endpoint, region, credentials and roles in its usual places (docs/s3.md). Every fault becomes an error of
`pgn.errors`, or one of the three signals below, which are the answers that a caller decides by.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import exceptions as boto
from botocore.config import Config

from pgn import __version__
from pgn.errors import ArtefactError, StoreRefused, StoreUnavailable, one_line

PARALLEL: Final = 8
"""How many objects or parts are under way at once."""
_MAX_PARTS: Final = 10_000  # S3's own limit
_BLOCK_BYTES: Final = 1 << 20
_CONFIG: Final = Config(
    connect_timeout=3,
    read_timeout=20,  # boto3's minute would hold a load for several
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=2 * PARALLEL,
    user_agent_extra=f"pgn-serve/{__version__}",
)
_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.InvalidConfigError,
    boto.UnauthorizedSSOTokenError,
    boto.SSOTokenLoadError,
)
_WRONG_REGION: Final = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}

Progress = Callable[[int], None]
"""Called with the number of bytes that have just gone over, or were there already."""


class Signal(Exception):
    """An answer that the caller decides by."""


class Absent(Signal):
    """There is no such object."""


class Unchanged(Signal):
    """The object is still the one with the etag that was given."""


class Changed(Signal):
    """The object is another than the one the caller has seen: it was written, or made, in between."""


@dataclass(frozen=True)
class Blob:
    """An object's bytes, and the etag that stands for exactly this state of it."""

    data: bytes
    etag: str


class Bucket:
    """The objects below `prefix`; safe to share between threads, not over a fork.

    Args:
        client: boto3's.
        name: Of the bucket.
        prefix: Without slashes at its ends; may be empty.
        part_bytes: Files above this size are sent in parts of it.
    """

    def __init__(self, client: Any, name: str, prefix: str, part_bytes: int) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self._part_bytes = part_bytes

    @classmethod
    def open(cls, remote: str, *, part_bytes: int) -> Bucket:
        """The bucket and prefix of an s3:// address; raises StoreRefused if boto3's own settings make no sense."""
        address = urlsplit(remote)
        with _told(remote):
            return cls(_client(), address.netloc, address.path.strip("/"), part_bytes)

    def url(self, key: str = "") -> str:
        """Where `key` lies, for people."""
        return f"s3://{self._name}/{self._key(key)}"

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": self._key(key)}

    def read(self, key: str, *, max_bytes: int, unless: str | None = None) -> Blob:
        """The object's bytes.

        Raises:
            Absent: No such object.
            Unchanged: It still has the etag `unless`.
            ArtefactError: It is larger than `max_bytes`; nothing of it was read.
        """
        with _told(self.url(key), Absent, Unchanged):
            condition = {} if unless is None else {"IfNoneMatch": unless}
            answer = self._client.get_object(**self._where(key), **condition)
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > max_bytes:
                    raise ArtefactError(f"{self.url(key)} has {answer['ContentLength']} bytes; {max_bytes} are allowed")
                return Blob(body.read(), answer["ETag"])

    def create(self, key: str, data: bytes) -> None:
        """Put an object where there is none; raises Changed if there is."""
        with _told(self.url(key), Changed):
            self._client.put_object(**self._where(key), Body=data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Put an object in place of the one with this etag; raises Changed if it has another by now, or is gone."""
        try:
            with _told(self.url(key), Changed, Absent):
                self._client.put_object(**self._where(key), Body=data, IfMatch=etag)
        except Absent as error:
            raise Changed(self.url(key)) from error

    def overwrite(self, key: str, data: bytes) -> None:
        """Put an object, whatever is there."""
        with _told(self.url(key)):
            self._client.put_object(**self._where(key), Body=data)

    def delete(self, key: str) -> None:
        """Delete an object; that there is none is fine."""
        with _told(self.url(key)):
            self._client.delete_object(**self._where(key))

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""
        try:
            with _told(self.url(key), Absent):
                return int(self._client.head_object(**self._where(key))["ContentLength"])
        except Absent:
            return None

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of every object below `key`, by its own key."""
        prefix, above = self._key(key) + "/", len(self._key(""))
        with _told(self.url(key)):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix)
            return {each["Key"][above:]: each["Size"] for page in pages for each in page.get("Contents", ())}

    def download(self, key: str, path: Path, progress: Progress) -> None:
        """Write the object to `path`, going on after what lies there already; the caller verifies the whole.

        Raises:
            Absent: No such object.
            StoreUnavailable: It broke off; what came is kept.
        """
        have = path.stat().st_size if path.exists() else 0
        progress(have)
        while True:
            before = have
            try:
                for block in self._blocks_from(key, have):
                    with path.open("ab") as file:
                        file.write(block)
                    have += len(block)
                    progress(len(block))
            except StoreUnavailable:
                if have == before:  # as long as something comes, it is worth going on
                    raise
            else:
                return

    def _blocks_from(self, key: str, start: int) -> Iterator[bytes]:
        with _told(self.url(key), Absent):
            try:
                part = {"Range": f"bytes={start}-"} if start else {}
                answer = self._client.get_object(**self._where(key), **part)
            except boto.ClientError as error:
                if _status(error) == 416:  # nothing is left
                    return
                raise
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(_BLOCK_BYTES)

    def upload(self, path: Path, key: str, progress: Progress) -> bool:
        """Put a file where there is no object, in parts if it is large; parts that are there are not sent again.

        Returns:
            False if there was an object of its size already, which is left alone.

        Raises:
            StoreUnavailable: It broke off; the parts that went over are kept, and the next call goes on with them.
        """
        size = path.stat().st_size
        try:
            if self.size(key) == size:
                return False
            if size <= self._part_bytes:
                self.create(key, path.read_bytes())
                progress(size)
            else:
                self._upload_parts(path, key, size, progress)
        except Changed:
            return False
        return True

    def _upload_parts(self, path: Path, key: str, size: int, progress: Progress) -> None:
        length = max(self._part_bytes, math.ceil(size / _MAX_PARTS))
        where = {**self._where(key), "UploadId": self._upload_id(key)}
        with _told(self.url(key), Changed):
            listing = self._client.get_paginator("list_parts").paginate(**where)
            there = {part["PartNumber"]: part["ETag"] for page in listing for part in page.get("Parts", ())}

            def send(number: int) -> tuple[dict[str, Any], int]:
                with path.open("rb") as file:
                    file.seek((number - 1) * length)
                    data = file.read(length)
                etag = there.get(number)
                if etag is None or etag.strip('"') != hashlib.md5(data, usedforsecurity=False).hexdigest():
                    etag = self._client.upload_part(**where, PartNumber=number, Body=data)["ETag"]
                return {"PartNumber": number, "ETag": etag}, len(data)

            parts = []
            for part, sent in _at_once(send, range(1, math.ceil(size / length) + 1)):
                parts.append(part)
                progress(sent)
            parts.sort(key=lambda part: part["PartNumber"])
            self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, IfNoneMatch="*")

    def _upload_id(self, key: str) -> str:
        """Of the newest upload of this key that was begun and not finished, else of a new one."""
        full = self._key(key)
        with _told(self.url(key)):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._name, Prefix=full)
            begun = [each for page in pages for each in page.get("Uploads", ()) if each["Key"] == full]
            if begun:
                return str(max(begun, key=lambda each: each["Initiated"])["UploadId"])
            return str(self._client.create_multipart_upload(**self._where(key))["UploadId"])


def _at_once(work: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
    """The results of `work`, in the order in which they come; after the first error nothing more is begun."""
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        for done in as_completed([pool.submit(work, number) for number in numbers]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _client() -> Any:
    """boto3's client; S3 of one's own is addressed by path, as its names are seldom in the DNS."""
    core = botocore.session.get_session()
    session = boto3.session.Session(botocore_session=core)
    region = session.region_name or "us-east-1"
    client = session.client("s3", region_name=region, config=_CONFIG)
    chosen = (core.get_scoped_config().get("s3") or {}).get("addressing_style")
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if chosen or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    return session.client("s3", region_name=region, config=_CONFIG.merge(Config(s3={"addressing_style": "path"})))


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def _told(url: str, *expected: type[Signal]) -> Iterator[None]:
    """Inside, boto3's errors become those of `pgn.errors`, with `url` in the message, or the signals expected here."""
    try:
        yield
    except boto.ClientError as error:
        meaning = _meaning(url, error)
        if isinstance(meaning, Signal) and not isinstance(meaning, expected):  # an upload that a rule has ended, say
            meaning = StoreUnavailable(f"{url} was changed by somebody else: {one_line(error)}")
        raise meaning from error
    except _NO_CREDENTIALS as error:
        raise StoreRefused(
            f"no credentials for {url}: {one_line(error)}",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
        ) from error
    except (boto.ParamValidationError, boto.NoRegionError, boto.InvalidRegionError) as error:
        raise StoreRefused(f"{url} cannot be asked: {one_line(error)}") from error
    except boto.BotoCoreError as error:  # connection, time-out, body cut short
        raise StoreUnavailable(f"{url} cannot be reached: {one_line(error)}") from error


def _meaning(url: str, error: boto.ClientError) -> Exception:
    status = _status(error)
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = f"{code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
    if code == "NoSuchBucket":
        return StoreRefused(f"the bucket of {url} does not exist", hint="is its name right? pgn makes no buckets")
    if code in _WRONG_REGION or status == 301:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "the profile's"
        return StoreRefused(f"{url} lies in another region than {region} ({said})", hint="set AWS_REGION to it")
    if status == 404:
        return Absent(url)
    if status == 304:
        return Unchanged(url)
    if status in (409, 412):
        return Changed(url)
    if status in (401, 403):
        return StoreRefused(f"{url} may not be used ({said})")
    if status == 501:
        return StoreRefused(f"{url}: the store cannot do this ({said})")
    if status == 429 or status >= 500:
        return StoreUnavailable(f"{url} does not answer now ({said})")
    return StoreRefused(f"{url} refuses the request ({said})")

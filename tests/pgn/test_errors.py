"""Errors are part of the interface: their codes, statuses and wire form are promises."""

from __future__ import annotations

import pickle
import re

import pytest

from pgn import errors
from pgn.errors import ERRORS, ArtefactError, PgnError, RequestError, ServiceError, SetupError, from_wire

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, PgnError)]
FAMILIES = (RequestError, ServiceError, ArtefactError, SetupError)


def test_every_class_has_a_code_of_its_own():
    """Two errors under one code could not be told apart by a client."""
    assert {cls.code: cls for cls in CLASSES} == ERRORS
    assert len(ERRORS) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_codes_are_dotted_words(cls):
    """Clients and dashboards match on the part before the dot."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", cls.code)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not PgnError])
def test_every_error_belongs_to_a_family(cls):
    """A family says who can mend it, so each error is in exactly one."""
    assert sum(issubclass(cls, family) for family in FAMILIES) == 1


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if issubclass(cls, RequestError)])
def test_request_errors_are_the_clients_and_final(cls):
    """The same request would be refused again, so no client may retry it; only a used-up rate passes with time."""
    assert 400 <= cls.status < 500
    assert cls.retryable == (cls.status == 429)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if not issubclass(cls, RequestError | SetupError)])
def test_only_service_errors_may_be_retried(cls):
    """A file that does not verify will not verify the next time either."""
    assert not cls.retryable or issubclass(cls, ServiceError)
    assert not issubclass(cls, ServiceError) or cls.status in (503, 504)


@pytest.mark.parametrize(
    ("code", "status", "retryable"),
    [
        ("request.empty", 400, False),
        ("dataset.unknown", 404, False),
        ("request.too_large", 413, False),
        ("image.too_many_pixels", 413, False),
        ("image.unsupported", 415, False),
        ("image.unreadable", 422, False),
        ("dataset.unavailable", 503, False),
        ("service.not_ready", 503, True),
        ("service.overloaded", 503, True),
        ("service.deadline", 504, True),
        ("message.invalid", 400, False),
    ],
)
def test_the_published_statuses_stand(code, status, retryable):
    """What clients were told does not change under them."""
    assert (ERRORS[code].status, ERRORS[code].retryable) == (status, retryable)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("hint", [None, "", "turn it off and on"])
def test_an_error_survives_the_wire(cls, hint):
    """Stages hand errors on as data; the gateway answers as if it had met them itself."""
    error = cls("7 apples, not 8", hint=hint)
    again = from_wire(error.to_wire())
    assert type(again) is cls
    assert again.to_wire() == error.to_wire()
    assert str(again) == str(error)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_pickling(cls):
    """Errors come back from worker processes whole, with their hint."""
    again = pickle.loads(pickle.dumps(cls("7 apples, not 8", hint="count again")))
    assert type(again) is cls
    assert again.to_wire() == {"code": cls.code, "message": "7 apples, not 8", "hint": "count again"}


def test_an_unknown_code_keeps_its_words():
    """A newer stage may know errors that an older gateway does not."""
    error = from_wire({"code": "moon.full", "message": "too bright", "hint": "draw the curtain", "request_id": "r1"})
    assert type(error) is PgnError
    assert (str(error), error.status) == ("too bright (draw the curtain)", 500)


def test_wire_data_without_fields_is_still_an_error():
    """Nothing that arrives may turn an error into a crash."""
    assert from_wire({}).message == "unknown error"


def test_text_is_message_and_hint():
    """One line says what was met and what to do; an empty hint is no hint, not the default."""
    assert str(errors.EmptyBody("0 bytes", hint="")) == "0 bytes"
    assert str(errors.EmptyBody("0 bytes", hint="send some")) == "0 bytes (send some)"
    assert str(errors.UsageError("no such file")) == "no such file"

"""A request's traceparent, as W3C's Trace Context has it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.gateway.trace import continue_trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")


@pytest.mark.parametrize(("flags", "kept"), [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03")])
def test_a_callers_trace_goes_on_under_a_span_of_our_own(flags: str, kept: str) -> None:
    """The trace stays the caller's; whose child we are is not who we are; unknown flags are not ours to pass on."""
    version, trace, span, own_flags = continue_trace(f"00-{TRACE}-{SPAN}-{flags}").split("-")
    assert (version, trace, own_flags) == ("00", TRACE, kept)
    assert span != SPAN


def test_a_version_to_come_is_read_as_far_as_it_is_known() -> None:
    """The standard promises that the first four parts stay."""
    assert continue_trace(f"01-{TRACE}-{SPAN}-01-more").split("-")[1] == TRACE


@pytest.mark.parametrize(
    "given_header",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_no_traceparent_begins_a_new_trace(given_header: str | None) -> None:
    """A damaged header must not tie strangers' requests together."""
    made = continue_trace(given_header)
    assert VALID.fullmatch(made)
    assert TRACE not in made


@given(st.text(max_size=80))
def test_whatever_is_sent_the_stages_get_a_valid_one(given_header: str) -> None:
    """It goes into messages and logs."""
    assert VALID.fullmatch(continue_trace(given_header))

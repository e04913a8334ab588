"""W3C trace context: a request belongs to its caller's trace, or to a new one. See docs/logs.md."""

from __future__ import annotations

import re
import secrets
from typing import Final

# version, trace id, parent's span id, flags; a version to come may add parts behind these.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?"
)
_KNOWN_FLAGS: Final = 0b11  # sampled, random; the others are not ours to pass on


def continue_trace(given: str | None) -> str:
    """The traceparent of this request's own span: of the caller's trace if `given` is valid, else of a new one."""
    found = _TRACEPARENT.fullmatch(given or "")
    if found is None or (found[1] == "00" and found[4]):
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
    return f"00-{found[2]}-{secrets.token_hex(8)}-{int(found[3], 16) & _KNOWN_FLAGS:02x}"

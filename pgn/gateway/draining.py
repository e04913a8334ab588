"""The end of a gateway: told to end, it says that it is not ready, goes on for a while, and only then closes."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType


class Draining:
    """Whether the gateway has been told to end.

    Attributes:
        has_begun: `/readyz` answers 503, and every answer asks its client to connect anew; requests are answered.
    """

    def __init__(self) -> None:
        self.has_begun = False

    @contextmanager
    def on_signals(self, delay_s: float) -> Iterator[None]:
        """Put `delay_s` between SIGTERM or SIGINT and what the HTTP server does about it, which is to close and end.

        To be entered in the event loop, once the server has set its handlers. A second SIGINT goes through at once.
        """
        if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
            yield
            return
        loop = asyncio.get_running_loop()
        servers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def close(number: int, frame: FrameType | None = None) -> None:
            handler = servers[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        def begin(number: int, frame: FrameType | None) -> None:
            if self.has_begun:
                if number == signal.SIGINT:
                    close(number, frame)
                return
            self.has_begun = True
            if delay_s:
                loop.call_soon_threadsafe(partial(loop.call_later, delay_s, close, number))
            else:
                close(number, frame)

        for number in servers:
            signal.signal(number, begin)
        try:
            yield
        finally:
            for number, handler in servers.items():
                signal.signal(number, handler)

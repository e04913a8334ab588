"""Following the index: what is new is verified off the request path, and asked only once both stages hold it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pgn.errors import PgnError
from pgn.gateway.datasets import Catalog, Dataset, file_state, read_catalog
from pgn.gateway.metrics import Metrics
from pgn.gateway.upstream import Stage, TorchServe
from pgn.index import INDEX_FILE
from pgn.message import MAX_TARGETS, StageState, Target
from pgn.store.local import LocalStore

_REFRESH_S: Final = 5.0  # between two questions to the stages while all is well
_STATE_TIMEOUT_S: Final = 5.0

_log = logging.getLogger(__name__)


class Follower:
    """Keeps `catalog` at what the index says and both stages hold.

    A version is drawn for requests only after both stages have said that they hold it, so no request names one that a
    stage does not know. Until then the versions that it replaces go on answering: the stages keep those for a while.
    What the index drops is not asked any more as soon as that is seen, whatever the stages do.

    Args:
        store: The model store; its `index.json` is replaced by rename.
        catalog: What is known at start.
        torchserve: Asks the stages.
        is_up: Whether asking makes sense: the workflow is registered.
        poll_s: Pause between two looks at the index, and between two questions while a version is being loaded.
        metrics: Takes revision and faults.
    """

    def __init__(
        self,
        store: LocalStore,
        catalog: Catalog,
        torchserve: TorchServe,
        *,
        is_up: Callable[[], bool],
        poll_s: float,
        metrics: Metrics,
    ) -> None:
        self.catalog = catalog
        self._store = store
        self._torchserve = torchserve
        self._is_up = is_up
        self._poll_s = poll_s
        self._metrics = metrics
        self._index = store.root / INDEX_FILE
        self._index_state: tuple[int, ...] | None = None  # unknown, so that the first look reads it once more
        self._refresh_at = 0.0
        self._swapping = asyncio.Lock()
        self._swapped = asyncio.Event()
        self._last_complaint: dict[str, str] = {}
        self._show()

    async def run(self) -> None:
        """Follow for ever. The index has a loop of its own: a silent stage must not keep a removal from being seen."""
        await asyncio.gather(self._repeat("index", self.look), self._repeat("stages", self._ask_if_up))

    async def _repeat(self, whom: str, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except PgnError as error:
                self._complain(whom, error.message)
            except Exception as error:  # the loop outlives every fault; a dead one would serve a stale index
                self._complain(whom, repr(error))
            else:
                self._last_complaint.pop(whom, None)
            await asyncio.sleep(self._poll_s)

    async def wait_for(self, is_served: Callable[[Catalog], bool], timeout_s: float) -> bool:
        """Whether `is_served(catalog)` holds, once it does or `timeout_s` has passed."""
        end = time.monotonic() + timeout_s
        while not is_served(self.catalog):
            try:
                await asyncio.wait_for(self._swapped.wait(), end - time.monotonic())
            except asyncio.TimeoutError:
                return False
        return True

    async def look(self) -> None:
        """Read the index again if it changed, or if a file that did not verify did.

        Raises:
            ArtefactError: It cannot be read; what was served is served on.
        """
        state = file_state(self._index)
        if state == self._index_state and not self._has_mended():
            return
        async with self._swapping:
            self._swap(await asyncio.to_thread(read_catalog, self._store, self.catalog))
        self._index_state = state

    def _has_mended(self) -> bool:
        return any(
            version.facts is None
            and version.file != file_state(self._store.bundle_path(version.dataset, version.digest))
            for version in self.catalog.versions()
        )

    async def _ask_if_up(self) -> None:
        if self._is_up():
            await self.ask()

    async def ask(self) -> None:
        """Ask both stages what they hold of the versions that are loading; every few seconds, of all.

        Raises:
            PgnError: A stage does not say; what was known of it stays.
        """
        is_due = time.monotonic() >= self._refresh_at
        targets = [
            version.target
            for dataset in self.catalog.datasets.values()
            if is_due or _is_loading(dataset)
            for version in (*dataset.versions, *dataset.standing_in)
            if version.facts is not None
        ]
        if targets:
            states = await asyncio.gather(self._ask_stage("pgn", targets), self._ask_stage("vit", targets))
            async with self._swapping:
                self._swap(self.catalog.after(states, frozenset(targets)))
        if is_due:
            self._refresh_at = time.monotonic() + _REFRESH_S

    async def _ask_stage(self, stage: Stage, targets: Sequence[Target]) -> StageState:
        """What a stage says of all `targets`, asked in as many messages as they need."""
        starts = range(0, len(targets), MAX_TARGETS)
        parts = await asyncio.gather(
            *(
                self._torchserve.state(stage, targets[start : start + MAX_TARGETS], timeout_s=_STATE_TIMEOUT_S)
                for start in starts
            )
        )
        # The stage may have gone on between two answers; what is true of the older revision is safe to believe.
        revision = min(part.revision for part in parts)
        versions = tuple(version for part in parts for version in part.versions)
        return parts[0].model_copy(update={"revision": revision, "versions": versions})

    def _swap(self, catalog: Catalog) -> None:
        _log_changes(self.catalog, catalog)
        self.catalog = catalog
        self._show()
        self._swapped.set()
        self._swapped = asyncio.Event()

    def _show(self) -> None:
        answering = [bool(dataset.answering) for dataset in self.catalog.datasets.values()]
        self._metrics.index_revision.set(self.catalog.revision)
        self._metrics.datasets.labels("ready").set(answering.count(True))
        self._metrics.datasets.labels("unavailable").set(answering.count(False))

    def _complain(self, whom: str, message: str) -> None:
        self._metrics.follow_errors.labels(whom).inc()
        if self._last_complaint.get(whom) != message:  # once a cause, not five times a second
            _log.warning("not_followed", extra={"whom": whom, "reason": message})
        self._last_complaint[whom] = message


def _is_loading(dataset: Dataset) -> bool:
    return any(version.state == "loading" for version in dataset.versions)


def _log_changes(old: Catalog, new: Catalog) -> None:
    if new.revision != old.revision:
        _log.info("index_read", extra={"revision": new.revision, "datasets": len(new.datasets)})
    before = {version.target: version.state for version in old.versions()}
    for version in new.versions():
        if before.get(version.target) == version.state:
            continue
        fields = {"dataset": version.dataset, "version": version.name, "state": version.state, "reason": version.reason}
        level = logging.WARNING if version.state in ("unavailable", "incompatible") else logging.INFO
        _log.log(level, "version_state", extra=fields)

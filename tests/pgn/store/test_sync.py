"""The folder follows the bucket; whatever happens on the way, its readers see whole states and old versions stay."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from pgn.errors import BackboneInvalid, DiskFull, IndexInvalid, SetupError, StoreRefused
from pgn.index import INDEX_FILE, Entry, Index, Version, read_index
from pgn.settings import Settings
from pgn.store import s3 as s3_module
from pgn.store import sync
from pgn.store.backbones import publish_backbone
from pgn.store.local import SYNC_FILE, LocalStore
from pgn.store.remote import RemoteStore, backbone_key, open_remote
from pgn.store.sync import Follower, read_sync_state, sync_once, watch
from tests.s3 import RunningS3, cutting_proxy
from tests.toys import make_backbone

MakeSettings = Callable[..., Settings]
MakeBundle = Callable[..., Path]
WAIT_S = 60
pause_s = sync._pause_s  # before any test replaces it


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt a request, and no pause before what failed is tried again."""
    once = s3_module.Config(retries={"total_max_attempts": 1})
    monkeypatch.setattr(s3_module, "_CONFIG", s3_module._CONFIG.merge(once))
    monkeypatch.setattr(sync, "_pause_s", lambda base_s, failed: min(base_s, 0.05))


@pytest.fixture
def follower(bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings) -> Follower:
    """Follows a bucket that serves digits and letters; one step was made, so the folder serves them too."""
    for dataset in ("digits", "letters"):
        bucket_store.publish(bundle(dataset))
    follower = Follower(settings(deadline_s=0.001))
    assert follower.step().failures == ()
    return follower


def folder(follower: Follower) -> Path:
    return follower._store.root


def serves(root: Path, dataset: str = "digits") -> str:
    """The version that the folder serves, after opening and verifying its bundle."""
    index = read_index(root)
    return LocalStore(root).read(dataset, index.main_version(dataset), backbone=index.backbone).version


def version(path: Path) -> str:
    return path.name.split(".")[1]


def key(path: Path) -> str:
    """Where a bundle's file lies in the bucket."""
    return f"datasets/{path.name.split('.')[0]}/{path.name}"


def step_again(follower: Follower) -> sync.SyncState:
    """A step after the pause that a failure makes."""
    follower._try_again_at = 0.0
    return follower.step()


@contextmanager
def watching(settings: Settings) -> Iterator[None]:
    """`watch` in a thread until the end of the block, which it has to survive."""
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(settings, stop))
    thread.start()
    try:
        yield
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class TestFollowing:
    def test_an_empty_folder_becomes_a_whole_store(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings, toys: LocalStore
    ) -> None:
        """Backbone, bundles and index: a server needs nothing else, and neither hub nor Internet."""
        for dataset in ("digits", "letters"):
            bucket_store.publish(bundle(dataset))
        state = sync_once(settings())
        root = settings().store
        assert read_index(root) == bucket_store.index()
        assert [serves(root, name) for name in ("digits", "letters")] == [
            version(bundle(name)) for name in ("digits", "letters")
        ]
        spec = LocalStore(root).backbone_folder(read_index(root).backbone) / "backbone.json"
        assert spec.read_bytes() == (toys.root / "backbones/toy/backbone.json").read_bytes()
        assert (state.wanted_revision, state.served_revision, state.error, state.failures) == (2, 2, None, ())
        assert read_sync_state(root) == state

    def test_a_look_that_finds_nothing_new_is_one_small_request(self, follower: Follower) -> None:
        """Hundreds of servers ask every two seconds."""
        asked: list[Any] = []
        follower._remote.bucket._client.meta.events.register(
            "before-send.s3", lambda request, **_: asked.append(request)
        )
        before = (folder(follower) / INDEX_FILE).stat()
        first = follower.step()
        second = follower.step()
        assert len(asked) == 2
        assert (folder(follower) / INDEX_FILE).stat() == before
        assert first.last_success is not None
        assert second.last_success is not None
        assert second.last_success > first.last_success

    def test_every_change_arrives(self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle) -> None:
        """A new version, a share, a way back, a removal: the folder says the same under the same revision."""
        bucket_store.publish(bundle("digits", 1))
        bucket_store.publish(bundle("letters", 1), share=0.5)
        for change in (lambda: None, lambda: bucket_store.rollback("digits"), lambda: bucket_store.remove("letters")):
            change()
            assert follower.step().served_revision == bucket_store.index().revision
            assert read_index(folder(follower)) == bucket_store.index()
        assert serves(folder(follower)) == version(bundle("digits"))

    def test_what_is_dropped_goes_after_the_grace(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings
    ) -> None:
        """Requests in flight name digests; the files stay as long as those can take, also over a restart."""
        bucket_store.publish(bundle("digits"))
        bucket_store.publish(bundle("letters"))
        sync_once(settings())
        bucket_store.remove("digits")
        root = settings().store
        lies = root / "datasets" / "digits" / bundle("digits").name
        sync_once(settings(deadline_s=30))
        assert set(read_index(root).datasets) == {"letters"}
        assert lies.is_file()
        state = read_sync_state(root)
        assert state is not None
        state.dropped = dict.fromkeys(state.dropped, 1.0)
        (root / SYNC_FILE).write_text(state.model_dump_json())
        assert sync_once(settings()).dropped == {}
        assert not lies.parent.exists()

    def test_what_can_be_gone_back_to_is_kept(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle
    ) -> None:
        """A rollback is an emergency: its file is there already."""
        bucket_store.publish(bundle("digits", 1))
        follower.step()
        follower.step()
        assert {path.name for path in (folder(follower) / "datasets/digits").iterdir()} == {
            bundle("digits").name,
            bundle("digits", 1).name,
        }

    def test_three_folders_follow_one_bucket(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings
    ) -> None:
        """Replicas serve the same, without talking to each other."""
        bucket_store.publish(bundle("digits"))
        folders = [settings(f"folder-{number}") for number in range(3)]

        def all_say(index: Index) -> bool:
            return all((each.store / INDEX_FILE).exists() and read_index(each.store) == index for each in folders)

        with watching(folders[0]), watching(folders[1]), watching(folders[2]):
            wait_until(lambda: all_say(bucket_store.index()), "the first revision")
            bucket_store.publish(bundle("digits", 1))
            wait_until(lambda: all_say(bucket_store.index()), "the second revision")
            bucket_store.publish(bundle("letters"))
            index = bucket_store.remove("digits")
            wait_until(lambda: all_say(index), "the removal")

    def test_readers_never_meet_half_a_state(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings
    ) -> None:
        """At every moment the index can be read, and all that it names verifies."""
        bucket_store.publish(bundle("digits"))
        bundles = [bundle("digits", seed) for seed in range(1, 6)]
        seen, stop, faults = set(), threading.Event(), []
        root = sync_and_folder(settings())

        def read() -> None:
            while not stop.is_set():
                try:
                    seen.add(serves(root))
                except Exception as error:
                    faults.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            with watching(settings()):
                for path in bundles:
                    bucket_store.publish(path)
                    wait_until(lambda path=path: version(path) in seen, path.name)
        finally:
            stop.set()
            reader.join(WAIT_S)
        assert faults == []


def sync_and_folder(settings: Settings) -> Path:
    sync_once(settings)
    return settings.store


class TestFaults:
    @pytest.mark.parametrize(
        ("spoil", "code", "says"),
        [
            (lambda bucket, key, data: bucket.overwrite(key, data[:-1] + b"\x00"), "digest_mismatch", "has SHA-256"),
            (lambda bucket, key, data: bucket.overwrite(key, data[: len(data) // 2]), "digest_mismatch", "has SHA-256"),
            (lambda bucket, key, data: bucket.overwrite(key, b""), "digest_mismatch", "has SHA-256 e3b0c44298fc1c14"),
            (lambda bucket, key, data: bucket.delete(key), "missing", "does not exist"),
        ],
        ids=["tampered", "truncated", "empty", "deleted"],
    )
    def test_a_bad_object_leaves_its_data_set_as_it_was(
        self,
        follower: Follower,
        bucket_store: RemoteStore,
        bundle: MakeBundle,
        caplog: pytest.LogCaptureFixture,
        spoil: Callable[..., None],
        code: str,
        says: str,
    ) -> None:
        """The old version goes on, the others move on, log and state say why; once it is mended all is as it should."""
        new = bundle("digits", 1)
        bucket_store.publish(new)
        spoil(bucket_store.bucket, key(new), new.read_bytes())
        bucket_store.publish(bundle("letters", 1))
        with caplog.at_level(logging.WARNING):
            state = follower.step()
            step_again(follower)
        root = folder(follower)
        assert (serves(root), serves(root, "letters")) == (version(bundle("digits")), version(bundle("letters", 1)))
        (failure,) = state.failures
        assert (failure.dataset, failure.digest[:16], failure.code) == ("digits", version(new), f"bundle.{code}")
        assert says in failure.message
        assert key(new) in failure.message
        assert [says in record.message for record in caplog.records] == [True], "once for each cause"
        assert (state.wanted_revision, state.served_revision) == (4, 2)
        assert read_index(root).revision < 4, "a revision of the bucket is not claimed by halves"

        bucket_store.publish(new)
        state = step_again(follower)
        assert (state.failures, state.served_revision) == ((), bucket_store.index().revision)
        assert read_index(root) == bucket_store.index()
        assert serves(root) == version(new)

    def test_an_object_that_arrives_late_is_taken_under_a_higher_revision(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle
    ) -> None:
        """The bucket's index has not changed since; the folder's has to, or nobody would look."""
        new = bundle("digits", 1)
        bucket_store.publish(new)
        bucket_store.bucket.delete(key(new))
        follower.step()
        before = read_index(folder(follower)).revision
        bucket_store.bucket.overwrite(key(new), new.read_bytes())
        assert step_again(follower).failures == ()
        assert read_index(folder(follower)).revision > before
        assert serves(folder(follower)) == version(new)

    def test_a_new_data_set_starts_with_what_verifies(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle
    ) -> None:
        """There is no older state to keep: the good one of two versions takes all; with none it is not there yet."""
        bucket_store.publish(bundle("pets"))
        bucket_store.publish(bundle("pets", 1), share=0.1)
        bucket_store.publish(bundle("cars"))
        for bad in (bundle("pets", 1), bundle("cars")):
            bucket_store.bucket.delete(key(bad))
        state = follower.step()
        index = read_index(folder(follower))
        assert {failure.dataset for failure in state.failures} == {"pets", "cars"}
        assert [each.share for each in index.datasets["pets"].versions] == [1.0]
        assert serves(folder(follower), "pets") == version(bundle("pets"))
        assert "cars" not in index.datasets

    def test_a_bucket_that_goes_away_in_the_middle(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle
    ) -> None:
        """What came is served, what did not stays as it was, and the next look brings the rest."""
        names = [f"set-{number}" for number in range(6)]
        for name in names:
            bucket_store.publish(bundle(name))
        bucket_store.publish(bundle("letters", 1))
        left = [3]
        lock = threading.Lock()

        def go_away(request: Any, **_: Any) -> None:
            with lock:
                if "/datasets/" in request.url and not request.url.endswith(".sig"):
                    left[0] -= 1
                if left[0] < 0:
                    raise EndpointConnectionError(endpoint_url=request.url)

        events = follower._remote.bucket._client.meta.events
        events.register("before-send.s3.GetObject", go_away)
        state = follower.step()
        root = folder(follower)
        assert state.failures
        assert {failure.code for failure in state.failures} == {"store.unavailable"}
        for name in read_index(root).datasets:
            assert serves(root, name)
        state = step_again(follower)
        assert state.error is not None
        assert "cannot be reached" in state.error
        assert state.last_success is not None
        assert state.last_success < state.last_attempt

        events.unregister("before-send.s3.GetObject", go_away)
        assert step_again(follower).failures == ()
        assert read_index(root) == bucket_store.index()

    def test_a_bucket_that_has_gone_is_not_asked_for_each_of_hundreds(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle
    ) -> None:
        """Each question takes its time-out; hundreds of them would take an hour."""
        index = bucket_store.index()
        for number in range(200):
            index = index.with_bundle(f"set-{number}", f"{number:064x}")
        bucket_store.bucket.overwrite(INDEX_FILE, index.to_json())
        asked = []

        def go_away(request: Any, **_: Any) -> None:
            if "/datasets/" in request.url:
                asked.append(request.url)
                raise EndpointConnectionError(endpoint_url=request.url)

        follower._remote.bucket._client.meta.events.register("before-send.s3.GetObject", go_away)
        assert len(follower.step().failures) == 200
        assert len(asked) < 2 * s3_module.PARALLEL + sync._GIVE_UP_AFTER

    def test_a_transfer_that_breaks_off_is_no_bundle(
        self,
        follower: Follower,
        bucket_store: RemoteStore,
        bundle: MakeBundle,
        s3: RunningS3,
        settings: MakeSettings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The header promises more bytes than come: nothing of it is kept."""
        new = bundle("digits", 1)
        bucket_store.publish(new)
        with cutting_proxy(s3.endpoint, new.name, after_bytes=1000) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            (failure,) = sync_once(settings()).failures
        assert failure.code == "store.unavailable"
        assert serves(folder(follower)) == version(bundle("digits"))
        assert follower.step().failures == ()
        assert serves(folder(follower)) == version(new)

    def test_lost_rights_leave_everything_as_it_was(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle, act_as: Any, settings: MakeSettings
    ) -> None:
        """A key that is revoked stops news, not the service; a restart finds the folder as it was."""
        act_as("wrong")
        again = Follower(settings())
        state = again.step()
        assert isinstance(again.error, StoreRefused)
        assert "SignatureDoesNotMatch" in (state.error or "")
        assert state.errors == {"store.refused": 1}
        assert serves(folder(follower)) == version(bundle("digits"))
        act_as("ro")
        assert sync_once(settings()).error is None

    def test_an_index_that_vanishes_leaves_everything_as_it_was(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle
    ) -> None:
        """A bucket that was emptied by mistake is no order to serve nothing."""
        bucket_store.bucket.delete(INDEX_FILE)
        assert "does not exist" in (follower.step().error or "")
        assert serves(folder(follower)) == version(bundle("digits"))

    def test_a_prefix_that_does_not_exist_is_told_and_waited_for(
        self, settings: MakeSettings, bundle: MakeBundle, toys: LocalStore
    ) -> None:
        """Servers may start before the first bundle is published."""
        with pytest.raises(IndexInvalid, match=r"index\.json does not exist"):
            sync_once(settings("one"))
        with watching(settings("two")):
            wait_until(lambda: bool(read_sync_state(settings("two").store)), "a state")
            store = open_remote(settings())
            publish_backbone(store.bucket, toys.root / "backbones/toy", lambda _: None)
            store.publish(bundle("digits"))
            wait_until((settings("two").store / INDEX_FILE).exists, "the first bundle")
        assert serves(settings("two").store) == version(bundle("digits"))

    def test_a_full_disk_is_told_and_survived(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No half-written file, and the old version goes on."""
        bucket_store.publish(bundle("digits", 1))

        def no_room(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", no_room)
            follower.step()
            assert isinstance(follower.error, DiskFull)
        assert serves(folder(follower)) == version(bundle("digits"))
        assert {path.name for path in (folder(follower) / "datasets/digits").iterdir()} == {bundle("digits").name}
        assert step_again(follower).error is None
        assert serves(folder(follower)) == version(bundle("digits", 1))

    def test_a_damaged_file_is_fetched_again_at_the_next_start(
        self, follower: Follower, bundle: MakeBundle, settings: MakeSettings
    ) -> None:
        """The index stays as it is: who refused the file sees by its time that it is another."""
        before = read_index(folder(follower))
        path = folder(follower) / "datasets/digits" / bundle("digits").name
        path.write_bytes(path.read_bytes()[:-1])
        sync_once(settings())
        assert serves(folder(follower)) == version(bundle("digits"))
        assert read_index(folder(follower)) == before

    def test_a_damaged_local_index_is_made_anew(
        self, follower: Follower, bucket_store: RemoteStore, settings: MakeSettings
    ) -> None:
        """The bucket has the truth."""
        (folder(follower) / INDEX_FILE).write_text("{")
        sync_once(settings())
        assert read_index(folder(follower)) == bucket_store.index()

    def test_an_index_deleted_by_hand_is_made_anew(self, follower: Follower, bucket_store: RemoteStore) -> None:
        """Although nothing has changed in the bucket."""
        (folder(follower) / INDEX_FILE).unlink()
        follower.step()
        assert read_index(folder(follower)) == bucket_store.index()

    def test_two_that_sync_into_one_folder_do_no_harm(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings
    ) -> None:
        """An operator's `pgn sync` beside the one that watches."""
        for seed in range(3):
            bucket_store.publish(bundle("digits", seed))
        with watching(settings()), watching(settings()):
            bucket_store.publish(bundle("letters"))
            index = bucket_store.remove("digits")
            wait_until(lambda: (settings().store / INDEX_FILE).exists(), "an index")
            wait_until(lambda: read_index(settings().store).datasets == index.datasets, "the last revision")
        assert sync_once(settings()).failures == ()

    def test_recovery_is_told_too(
        self, follower: Follower, bucket_store: RemoteStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whoever was woken by the fault reads that it is over."""
        data = bucket_store.index().to_json()
        bucket_store.bucket.overwrite(INDEX_FILE, b"{")
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                follower.step()
            bucket_store.bucket.overwrite(INDEX_FILE, data)
            follower.step()
        first, last = (record.message for record in caplog.records)
        assert "Invalid JSON" in first
        assert "says again" in last


class TestWhoseFolderItIs:
    def test_a_store_of_ones_own_is_not_replaced(
        self, toys: LocalStore, settings: MakeSettings, tmp_path: Path, bucket_store: RemoteStore
    ) -> None:
        """PGN_REMOTE set by mistake costs nobody his bundles."""
        shutil.copytree(toys.root, settings().store)
        before = read_index(settings().store)
        with pytest.raises(SetupError, match="has an index of its own"):
            sync_once(settings())
        assert read_index(settings().store) == before

    def test_a_folder_that_follows_is_not_changed_by_hand(self, follower: Follower, bundle: MakeBundle) -> None:
        """The next look at the bucket would undo it; whoever forgot PGN_REMOTE reads so."""
        store = LocalStore(folder(follower))
        for change in (lambda: store.publish(bundle("pets")), lambda: store.remove("digits")):
            with pytest.raises(SetupError, match="follows a bucket") as refusal:
                change()
            assert "PGN_REMOTE" in refusal.value.hint

    def test_a_folder_follows_one_bucket(self, follower: Follower, settings: MakeSettings) -> None:
        """Another prefix is another deployment."""
        with pytest.raises(SetupError, match=r"follows s3://.*, not s3://other/place"):
            Follower(settings(remote="s3://other/place"))

    def test_a_bucket_has_to_be_named(self, tmp_path: Path) -> None:
        """`pgn sync` alone says what to set."""
        with pytest.raises(SetupError, match="no bucket is named") as refusal:
            sync_once(Settings(store=tmp_path))
        assert "PGN_REMOTE" in refusal.value.hint

    def test_running_servers_keep_their_backbone(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle, tmp_path: Path
    ) -> None:
        """The ViT is loaded once; an index for another one is for servers that start anew."""
        make_backbone(tmp_path / "other", seed=3, name="other")
        other, _ = publish_backbone(bucket_store.bucket, tmp_path / "other", lambda _: None)
        entry = Entry(versions=(Version(digest="0" * 64, share=1.0),))
        bucket_store.bucket.overwrite(INDEX_FILE, Index(revision=9, backbone=other, datasets={"pets": entry}).to_json())
        assert "the bucket's index is for backbone" in (follower.step().error or "")
        assert serves(folder(follower)) == version(bundle("digits"))

    def test_an_index_put_back_from_a_backup_is_followed(
        self, follower: Follower, bucket_store: RemoteStore, bundle: MakeBundle
    ) -> None:
        """Its revision is lower than the folder's; the folder's grows all the same."""
        old = bucket_store.index()
        bucket_store.publish(bundle("digits", 1))
        follower.step()
        before = read_index(folder(follower)).revision
        bucket_store.bucket.overwrite(INDEX_FILE, old.to_json())
        state = follower.step()
        assert (state.wanted_revision, state.served_revision) == (2, 2)
        assert read_index(folder(follower)).revision > before
        assert serves(folder(follower)) == version(bundle("digits"))


class TestBackbone:
    def test_a_backbone_that_is_not_there_stops_the_start(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings
    ) -> None:
        """Without it no bundle means anything; the message has the key and the command."""
        bucket_store.publish(bundle("digits"))
        bucket_store.bucket.delete(backbone_key(bucket_store.index().backbone, "backbone.json"))
        with pytest.raises(BackboneInvalid, match=r"backbone\.json does not exist") as refusal:
            sync_once(settings())
        assert "pgn backbone publish" in refusal.value.hint
        assert not (settings().store / INDEX_FILE).exists()

    @pytest.mark.parametrize("file", ["backbone.json", "model.safetensors"])
    def test_a_tampered_backbone_is_not_taken(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings, file: str
    ) -> None:
        """One changed byte in 350 MB would change every answer a little; the next attempt starts from nothing."""
        bucket_store.publish(bundle("digits"))
        where = backbone_key(bucket_store.index().backbone, file)
        data = bucket_store.bucket.read(where, max_bytes=10**9).data
        bucket_store.bucket.overwrite(where, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BackboneInvalid, match=r"digest says|its spec says"):
            sync_once(settings())
        assert list((settings().store / "backbones").glob("*")) == []
        bucket_store.bucket.overwrite(where, data)
        assert sync_once(settings()).failures == ()

    def test_a_download_that_broke_off_goes_on(
        self, bucket_store: RemoteStore, bundle: MakeBundle, settings: MakeSettings
    ) -> None:
        """A backbone of 350 MB over a bad line is fetched once, in pieces, also by another process."""
        bucket_store.publish(bundle("digits"))
        index = bucket_store.index()
        data = bucket_store.bucket.read(backbone_key(index.backbone, "model.safetensors"), max_bytes=10**9).data
        scratch = settings().store / ".incoming" / index.backbone
        scratch.mkdir(parents=True)
        (scratch / "model.safetensors").write_bytes(data[:1000])
        follower = Follower(settings())
        ranges = []
        follower._remote.bucket._client.meta.events.register(
            "before-send.s3.GetObject", lambda request, **_: ranges.append(request.headers.get("Range"))
        )
        assert follower.step().failures == ()
        assert b"bytes=1000-" in ranges
        assert follower.error is None


@pytest.mark.parametrize(
    ("failed", "least", "most"), [(0, 1.5, 2), (1, 3, 4), (3, 12, 16), (4, 22.5, 30), (99, 22.5, 30)]
)
def test_pauses_grow_and_differ(failed: int, least: float, most: float) -> None:
    """A store that is away is not hammered by all at once, and its return is noticed within half a minute."""
    pauses = [pause_s(2.0, failed) for _ in range(50)]
    assert least <= min(pauses) < max(pauses) <= most

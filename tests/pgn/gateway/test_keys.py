"""The file of API keys: what it may say, and how entries come and go."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.errors import Forbidden, SetupError, UsageError
from pgn.gateway.keys import Key, Principal, hash_key, new_key, read_keys, revoke_key

HASHES = [hash_key(str(number)) for number in range(3)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a file of keys may be."""
    return tmp_path / "keys.toml"


class TestPrincipal:
    """What a key may."""

    def test_patterns_say_which_data_sets_may_be_asked(self) -> None:
        """A team gets its names, and those to come that begin like them."""
        principal = Principal("team-a", ("digits", "team-a-*"))
        assert [name for name in ("digits", "digits2", "team-a-x", "team-b-x") if principal.may_ask(name)] == [
            "digits",
            "team-a-x",
        ]
        assert Principal("all").may_ask("anything")
        assert not Principal("nothing", ()).may_ask("digits")

    def test_what_may_not_be_asked_is_forbidden_by_name(self) -> None:
        """The caller learns that the key is the reason, and nothing of whether there is such a data set."""
        Principal("team-a", ("digits",)).require("digits")
        with pytest.raises(Forbidden, match="'team-a' may not ask data set 'flowers'"):
            Principal("team-a", ("digits",)).require("flowers")

    def test_an_administrator_is_one_of_its_own_data_sets(self) -> None:
        """A team may publish its bundles without being able to remove another's."""
        admin = Principal("team-a", ("team-a-*",), is_admin=True)
        admin.require_admin("team-a-x")
        for dataset, principal in (("digits", admin), (None, Principal("team-b"))):
            with pytest.raises(Forbidden):
                principal.require_admin(dataset)


class TestReading:
    """What the file may say."""

    def test_a_file_names_keys_by_their_hashes(self, file: Path) -> None:
        """Everything but name and hash has a default."""
        file.write_text(
            f'[[key]]\nname = "a"\nsha256 = "{HASHES[0]}"\n[[key]]\nname = "b"\nsha256 = "{HASHES[1]}"\nadmin = true\n'
        )
        keys = read_keys(file)
        assert [key.name for key in keys.values()] == ["a", "b"]
        assert keys[HASHES[0]].principal == Principal("a", ("*",), is_admin=False)
        assert keys[HASHES[1]].principal.is_admin

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[[key]", "no TOML"),
            ('[[key]]\nname = "a"\n', "key.0.sha256"),
            (f'[[key]]\nname = "A b"\nsha256 = "{HASHES[0]}"', "key.0.name"),
            (f'[[key]]\nname = "anonymous"\nsha256 = "{HASHES[0]}"', "stands for requests without a key"),
            (f'[[key]]\nname = "a"\nsha256 = "{HASHES[0]}"\nrate = 0', "key.0.rate"),
            (f'[[key]]\nname = "a"\nsha256 = "{HASHES[0]}"\nburst = 5', "burst without rate"),
            (f'[[key]]\nname = "a"\nsha256 = "{HASHES[0]}"\nkey = "secret"', "key.0.key"),
            (f'[[key]]\nname = "a"\nsha256 = "{HASHES[0]}"\n' * 2, "name a is there twice"),
            ('[[keys]]\nname = "a"', "keys"),
        ],
    )
    def test_a_fault_is_named(self, file: Path, text: str, told: str) -> None:
        """A misspelt field must not make a key mightier than it was meant."""
        file.write_text(text)
        with pytest.raises(SetupError, match=told) as raised:
            read_keys(file)
        assert str(file) in str(raised.value)

    @pytest.mark.parametrize("content", [None, b"\xff\xfe"])
    def test_a_file_that_cannot_be_read_is_one_line(self, file: Path, content: bytes | None) -> None:
        """Missing, or no text."""
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SetupError, match="cannot be read"):
            read_keys(file)

    def test_a_key_ends_when_its_time_does(self) -> None:
        """A moment without a zone is UTC, wherever the server stands."""
        now = datetime.now(timezone.utc)
        over, not_yet = now - timedelta(minutes=1), now + timedelta(minutes=1)
        for moment, expected in ((over, True), (not_yet, False)):
            for written in (moment, moment.replace(tzinfo=None)):
                assert Key(name="a", sha256=HASHES[0], expires=written).has_expired() == expected
        assert not Key(name="a", sha256=HASHES[0]).has_expired()


class TestChanging:
    """`pgn key new` and `revoke`."""

    def test_a_new_key_is_returned_once_and_its_hash_kept(self, file: Path) -> None:
        """Who reads the file cannot ask."""
        key = new_key(file, "team-a", datasets=["digits", "team-a-*"], rate=2.5, burst=10)
        assert key not in file.read_text()
        found = read_keys(file)[hash_key(key)]
        assert (found.name, found.datasets, found.rate, found.burst) == ("team-a", ("digits", "team-a-*"), 2.5, 10)
        assert not found.admin

    def test_the_file_is_for_its_owner_alone(self, file: Path) -> None:
        """Also after a change."""
        new_key(file, "a")
        new_key(file, "b")
        assert file.stat().st_mode & 0o777 == 0o600

    def test_keys_are_long_and_never_the_same(self, file: Path) -> None:
        """256 bits cannot be guessed, so that one round of a fast hash is enough."""
        keys = [new_key(file, name) for name in "abc"]
        assert len(set(keys)) == 3
        assert min(map(len, keys)) >= 43

    def test_a_name_that_is_taken_changes_nothing(self, file: Path) -> None:
        """Two keys of one name could not be told apart in logs."""
        new_key(file, "a")
        before = file.read_text()
        with pytest.raises(UsageError, match="'a' already"):
            new_key(file, "a", admin=True)
        assert file.read_text() == before

    def test_a_wrong_field_changes_nothing(self, file: Path) -> None:
        """The file is right before and after."""
        with pytest.raises(SetupError, match="rate"):
            new_key(file, "a", rate=-1)
        assert not file.exists()

    def test_revoking_leaves_the_rest_as_it_was_written(self, file: Path) -> None:
        """Comments and order are the operator's."""
        new_key(file, "a")
        new_key(file, "b")
        written = file.read_text()
        file.write_text("# ours\n" + written.replace("[[key]]", "  [[ key ]]  # one"))
        revoke_key(file, "a")
        assert [key.name for key in read_keys(file).values()] == ["b"]
        assert file.read_text().startswith("# ours\n")
        with pytest.raises(UsageError, match="no key 'a'"):
            revoke_key(file, "a")

    def test_an_entry_that_is_no_block_is_left_to_its_author(self, file: Path) -> None:
        """Better to say so than to take out the wrong lines."""
        file.write_text(f'key = [{{ name = "a", sha256 = "{HASHES[0]}" }}, {{ name = "b", sha256 = "{HASHES[1]}" }}]\n')
        with pytest.raises(SetupError, match="by hand"):
            revoke_key(file, "a")
        assert len(read_keys(file)) == 2

    @given(
        names=st.lists(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True), unique=True, min_size=1, max_size=5)
    )
    def test_any_key_can_be_taken_out_again(self, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
        """Whatever its name, and whichever its place."""
        names = [name for name in names if name != "anonymous"]
        file = tmp_path_factory.mktemp("keys") / "keys.toml"
        for name in names:
            new_key(file, name)
        for index, name in enumerate(names):
            revoke_key(file, name)
            assert [key.name for key in read_keys(file).values()] == names[index + 1 :]

    def test_two_at_once_lose_nothing(self, file: Path) -> None:
        """Two operators, or a script."""
        code = "import sys; from pathlib import Path; from pgn.gateway.keys import new_key\n"
        code += "for n in range(20): new_key(Path(sys.argv[1]), f'{sys.argv[2]}{n}')"
        writers = [subprocess.Popen([sys.executable, "-c", code, file, who]) for who in ("a", "b")]
        assert [writer.wait(60) for writer in writers] == [0, 0]
        assert len(read_keys(file)) == 40

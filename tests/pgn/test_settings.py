"""Settings come from environment and flags, and every fault is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn.errors import SetupError
from pgn.settings import load_settings, read_torchserve_config

CONFIG = """\
# addresses
inference_address=http://127.0.0.1:8080
management_address = http://127.0.0.1:8081/
metrics_address=http://127.0.0.1:8082
grpc_inference_port=7070
grpc_management_port=7071

job_queue_size=100
vmargs=-Xmx512m -Dlog4j.level=WARN
"""


class TestSettings:
    def test_defaults_need_nothing(self):
        """A checkout runs without any configuration."""
        settings = load_settings()
        assert (settings.host, settings.port, settings.store) == ("127.0.0.1", 8000, Path("model_store"))

    def test_the_environment_sets_them(self, monkeypatch):
        """Containers are configured by variables."""
        monkeypatch.setenv("PGN_PORT", "9000")
        monkeypatch.setenv("PGN_STORE", "/srv/store")
        assert (load_settings().port, load_settings().store) == (9000, Path("/srv/store"))

    def test_flags_win_over_the_environment(self, monkeypatch):
        """What was typed last was meant; a flag that was not given is None and changes nothing."""
        monkeypatch.setenv("PGN_PORT", "9000")
        assert load_settings(port=9001).port == 9001
        assert load_settings(port=None).port == 9000

    def test_an_empty_variable_is_none(self, monkeypatch):
        """Manifests and compose files empty a variable to take it back; it must not become the folder `.`."""
        for name in ("PGN_KEYS", "PGN_PORT"):
            monkeypatch.setenv(name, "")
        assert (load_settings().keys, load_settings().port) == (None, 8000)

    def test_every_fault_is_told_at_once(self, monkeypatch):
        """One start shows all that has to be mended, with the value that was met."""
        monkeypatch.setenv("PGN_PORT", "http")
        monkeypatch.setenv("PGN_DEADLINE_S", "-1")
        with pytest.raises(SetupError) as refusal:
            load_settings(top_k=0)
        for fault in ("PGN_PORT='http'", "PGN_DEADLINE_S='-1'", "PGN_TOP_K=0"):
            assert fault in refusal.value.message

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_a_port_has_to_exist(self, port):
        """Found when the settings are read, not when the socket is bound."""
        with pytest.raises(SetupError, match=f"PGN_PORT={port}"):
            load_settings(port=port)

    def test_a_flag_that_does_not_exist_is_refused(self):
        """A typo must not start a server with a default in its place."""
        with pytest.raises(SetupError, match="PGN_PROT"):
            load_settings(prot=9000)

    def test_they_do_not_change(self):
        """Every part of the server sees the same values from start to stop."""
        with pytest.raises(ValueError, match="frozen"):
            load_settings().port = 1


class TestTorchServeConfig:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A whole config.properties."""
        path = tmp_path / "config.properties"
        path.write_text(CONFIG)
        return path

    def test_addresses_and_ports_are_read(self, path):
        """The file is TorchServe's; the gateway calls what it names and checks every port that it binds."""
        config = read_torchserve_config(path)
        addresses = (config.inference, config.management, config.metrics)
        assert addresses == tuple(f"http://127.0.0.1:{port}" for port in (8080, 8081, 8082))
        assert config.ports == (8080, 8081, 8082, 7070, 7071)
        assert (config.job_queue_size, config.vmargs) == (100, ("-Xmx512m", "-Dlog4j.level=WARN"))

    def test_a_missing_file_is_named(self, tmp_path):
        """Most likely the command was run in another folder."""
        with pytest.raises(SetupError, match=r"nowhere\.properties cannot be read: No such file"):
            read_torchserve_config(tmp_path / "nowhere.properties")

    @pytest.mark.parametrize(
        "name",
        [
            "inference_address",
            "management_address",
            "metrics_address",
            "grpc_inference_port",
            "grpc_management_port",
            "job_queue_size",
        ],
    )
    @pytest.mark.parametrize("comment", ["", "#"])
    def test_a_missing_line_is_named(self, path, name, comment):
        """TorchServe's own defaults would bind ports that nobody here knows of; a comment is no line."""
        lines = [comment + line if line.startswith(name) else line for line in CONFIG.splitlines()]
        path.write_text("\n".join(line for line in lines if comment or not line.startswith(name)))
        with pytest.raises(SetupError, match=f"has no line {name}="):
            read_torchserve_config(path)

    @pytest.mark.parametrize(("old", "new"), [("7070", "many"), (":8080", ":http"), ("=100", "=lots")])
    def test_a_value_that_is_no_number_is_refused(self, path, old, new):
        """The file is named, as it is not the only one."""
        path.write_text(CONFIG.replace(old, new))
        with pytest.raises(SetupError, match=r"config\.properties: "):
            read_torchserve_config(path)

    def test_a_file_that_is_no_text_is_refused(self, path):
        """A wrong path may lead to anything."""
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SetupError, match=r"config\.properties has no line"):
            read_torchserve_config(path)

"""What the code has to say to the manifests: settings, TorchServe's keys, commands, ports, paths, times.

Everything is asked of the code itself: the settings of their class, commands of the command line's own parser, paths of
the gateway's own description, TorchServe's keys of its jar. Nothing here is a list to be kept.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import typer
from typer.main import get_command

from k8s.check.combinations import ROOT
from k8s.check.objects import Container, Pod, expand, of_kind, pods, quantity
from k8s.check.render import Object
from pgn.errors import SetupError
from pgn.settings import Settings, TorchServeConfig, load_settings, read_torchserve_config

Check = Callable[[Sequence[Object]], Iterator[str]]

_PREFIX: Final = "PGN_"
_SPARE_S: Final = 5  # beyond drain and deadline, as `pgn serve` gives its gateway
_OTHERS: Final = ("sh", "cp", "tini", "torchrun")  # programs of the image that are not ours
# What all processes of a pod have to see alike.
_SHARED: Final = (
    "store",
    "remote",
    "torchserve_config",
    "metrics_dir",
    "deadline_s",
    "device",
    "log_level",
    "log_format",
)


# --- environment ---


def variables(container: Container, objects: Sequence[Object]) -> dict[str, str]:
    """The environment that a manifest gives a container, as far as manifests know it: no Secrets, no fields."""
    maps = {each["metadata"]["name"]: each.get("data", {}) for each in of_kind(objects, "ConfigMap")}
    found: dict[str, str] = {}
    for each in container.spec.get("envFrom", ()):
        prefix, ref = each.get("prefix", ""), each.get("configMapRef", {})
        found |= {prefix + name: value for name, value in maps.get(ref.get("name"), {}).items()}
    for each in container.spec.get("env", ()):
        if "value" in each:
            found[each["name"]] = expand(each["value"], found)
        elif ref := each.get("valueFrom", {}).get("configMapKeyRef"):
            found[each["name"]] = maps.get(ref["name"], {}).get(ref["key"], "")
        elif ref := each.get("valueFrom", {}).get("resourceFieldRef"):
            part, _, name = ref["resource"].partition(".")
            found[each["name"]] = f"{container.resource(part, name) / quantity(ref.get('divisor', 1)):.0f}"
    return found


def settings_of(container: Container, objects: Sequence[Object]) -> Settings:
    """The settings that the program in the container reads.

    Raises:
        SetupError: It would refuse them.
    """
    given = {name: value for name, value in variables(container, objects).items() if name.startswith(_PREFIX)}
    wrong = sorted(name for name in given if name.removeprefix(_PREFIX).lower() not in Settings.model_fields)
    if wrong:
        raise SetupError(f"there is no setting {', '.join(wrong)}")
    # Lists travel as JSON, which only the reader of the environment parses.
    return load_settings(**{name.removeprefix(_PREFIX).lower(): value for name, value in given.items()})


def settings_known(objects: Sequence[Object]) -> Iterator[str]:
    """Every PGN_ variable is a setting, with a value that the program takes."""
    for pod in pods(objects):
        for container in pod.containers:
            try:
                settings_of(container, objects)
            except SetupError as error:
                yield f"{pod.name}, {container.name}: {error.message}"


def settings_agree(objects: Sequence[Object]) -> Iterator[str]:
    """All containers of a pod that serve see the same store, metrics, deadline and device."""
    for pod in pods(objects):
        if not pod.serves:
            continue
        seen = {each.name: settings_of(each, objects) for each in pod.containers if each.role != "init"}
        for field in _SHARED:
            values = {name: getattr(settings, field) for name, settings in seen.items()}
            if len(set(values.values())) > 1:
                yield f"{pod.name}: {field} differs: {', '.join(f'{name} {value}' for name, value in values.items())}"
            if field == "metrics_dir" and None in values.values():
                yield f"{pod.name}: without PGN_METRICS_DIR the gateway shows none of the stages' metrics"


def paths_mounted(objects: Sequence[Object]) -> Iterator[str]:
    """Every file and folder that a setting names lies in a mount of the container that reads it."""
    for pod in pods(objects):
        for container in pod.containers:
            mounts = [Path(each["mountPath"]) for each in container.mounts]
            # All share one ConfigMap; TorchServe and the gateway read all of it, the others the store alone.
            reads_all = container.command[-2:] == ["pgn", "torchserve"] or container.command[-1:] == ["pgn.gateway"]
            for name, value in variables(container, objects).items():
                is_read = name == "PGN_STORE" or (reads_all and name.startswith(_PREFIX))
                if is_read and value.startswith("/") and not any(Path(value).is_relative_to(each) for each in mounts):
                    yield f"{pod.name}, {container.name}: {name}={value} lies in no mount"


# --- TorchServe ---


@cache
def torchserve_keys() -> frozenset[str]:
    """Every word in what reads config.properties, TorchServe's server and its launcher: another is no key."""
    torchserve = distribution("torchserve")
    with zipfile.ZipFile(str(torchserve.locate_file("ts/frontend/model-server.jar"))) as jar:
        server = jar.read("org/pytorch/serve/util/ConfigManager.class")
    launcher = Path(str(torchserve.locate_file("ts/model_server.py"))).read_bytes()
    return frozenset(word.decode() for word in re.findall(rb"[A-Za-z][A-Za-z0-9_]{3,}", server + launcher))


def torchserve_configs(objects: Sequence[Object]) -> Iterator[tuple[str, str]]:
    """Every config.properties: which ConfigMap it is of, and its text."""
    for each in of_kind(objects, "ConfigMap"):
        if text := each.get("data", {}).get("config.properties"):
            yield each["metadata"]["name"], text


def torchserve_keys_known(objects: Sequence[Object]) -> Iterator[str]:
    """Every key of config.properties is one that TorchServe knows, once, and the gateway can read the file."""
    for name, text in torchserve_configs(objects):
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        keys = [line.partition("=")[0].strip() for line in lines]
        yield from (f"ConfigMap/{name}: TorchServe knows no key {key}" for key in keys if key not in torchserve_keys())
        yield from (f"ConfigMap/{name}: {key} is there twice" for key in sorted({k for k in keys if keys.count(k) > 1}))
        try:
            _config(text)
        except SetupError as error:
            yield f"ConfigMap/{name}: {error.message}"


def torchserve_closed(objects: Sequence[Object]) -> Iterator[str]:
    """TorchServe's management and metrics stay on loopback and on no Service: it trusts whoever reaches it."""
    for name, text in torchserve_configs(objects):
        config = _config(text)
        for what, address in (("management", config.management), ("metrics", config.metrics)):
            if urlsplit(address).hostname not in ("127.0.0.1", "localhost"):
                yield f"ConfigMap/{name}: the {what} address {address} is not loopback"
            port = urlsplit(address).port
            for each in of_kind(objects, "Service"):
                if any(port in (entry["port"], entry.get("targetPort")) for entry in each["spec"]["ports"]):
                    yield f"Service/{each['metadata']['name']} publishes TorchServe's {what} port {port}"


def probes_reachable(objects: Sequence[Object]) -> Iterator[str]:
    """No probe by HTTP or TCP asks what listens on loopback alone: the kubelet asks the pod's address."""
    local = {
        urlsplit(address).port: address
        for _, text in torchserve_configs(objects)
        for address in (_config(text).inference, _config(text).management, _config(text).metrics)
        if urlsplit(address).hostname in ("127.0.0.1", "localhost")
    }
    for pod in pods(objects):
        for container in pod.containers:
            for kind, probe in container.probes.items():
                port = next((probe[how]["port"] for how in ("httpGet", "tcpSocket") if how in probe), None)
                if port in local:
                    yield f"{pod.name}, {container.name}: the {kind} probe asks {local[port]}, where no kubelet comes"


def memory_fits(objects: Sequence[Object]) -> Iterator[str]:
    """The JVM's heap and the limit on its memory lie below the container's: the gateway acts before the kernel does."""
    for _, text in torchserve_configs(objects):
        heap = next(
            (
                quantity(flag[4:].upper().replace("G", "Gi").replace("M", "Mi"))
                for flag in _config(text).vmargs
                if flag.startswith("-Xmx")
            ),
            None,
        )
        for pod in pods(objects):
            for container in pod.containers:
                if container.command[-2:] != ["pgn", "torchserve"]:
                    continue
                limit = container.resource("limits", "memory")
                if heap is None or heap > limit / 2:
                    yield f"{pod.name}: TorchServe's heap is {'not set' if heap is None else 'over half of its memory'}"
                if settings_of(container, objects).max_server_bytes >= limit:
                    yield f"{pod.name}: PGN_MAX_SERVER_BYTES is not below TorchServe's limit of memory"


def _config(text: str) -> TorchServeConfig:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.properties"
        path.write_text(text, "latin-1")
        return read_torchserve_config(path)


# --- commands ---


def commands_known(objects: Sequence[Object]) -> Iterator[str]:
    """Every command is one of ours, with options that it has; every module can be imported."""
    for pod in pods(objects):
        for container in pod.containers:
            known = variables(container, objects)
            words = [expand(word, known) for word in container.command]
            probe_commands = [probe["exec"]["command"] for probe in container.probes.values() if "exec" in probe]
            for command in (words, *probe_commands):
                if fault := command_fault(command):
                    yield f"{pod.name}, {container.name}: {fault}"


def command_fault(words: Sequence[str]) -> str | None:
    """What is wrong with a command; None if it would be understood."""
    if not words:
        return "no command; the image's own says nothing here"
    program, *rest = words
    name = Path(program).name
    if name == "tini":
        return command_fault(
            rest[rest.index("--") + 1 :] if "--" in rest else [each for each in rest if each[0] != "-"]
        )
    if name == "sh":
        return next((f for line in _script_commands(rest) if (f := command_fault(line))), None)
    if name == "pgn":
        return _cli_fault(rest)
    if name in ("python", "python3", "torchrun"):
        if "-m" not in rest or "-c" in rest[: rest.index("-m")]:
            return None
        module, arguments = rest[rest.index("-m") + 1], rest[rest.index("-m") + 2 :]
        if module == "pgn":
            return _cli_fault(arguments)
        return None if _is_module(module) else f"there is no module {module}"
    return None if name in _OTHERS or shutil.which(name) else f"there is no program {program}"


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def _cli() -> Any:
    from pgn.cli import app

    return get_command(app)


def _cli_fault(words: Sequence[str]) -> str | None:
    """Parse as the program would, and run nothing."""
    command = _cli()
    context = command.make_context("pgn", [], resilient_parsing=True)
    rest = list(words)
    try:
        while hasattr(command, "commands"):
            if not rest or rest[0].startswith("-"):
                return f"{context.command_path} needs a subcommand"
            name, rest = rest[0], rest[1:]
            if name not in command.commands:
                return f"{context.command_path} has no subcommand {name}"
            command = command.commands[name]
            if hasattr(command, "commands"):
                context = command.make_context(name, [], parent=context, resilient_parsing=True)
        command.make_context(name, rest, parent=context)
    except (typer.Exit, SystemExit):
        return None
    except Exception as error:  # click's errors, of whichever click typer brings
        if not hasattr(error, "format_message"):
            raise
        return f"pgn {' '.join(words)}: {error.format_message()}"
    return None


def _script_commands(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The lines of a shell script that call the project: `pgn ...`, `python -m ...`."""
    text = "\n".join(arguments).replace("\\\n", " ")
    for line in re.split(r"\n|;|&&|\|\||\|", text):
        words = line.split()
        start = next((n for n, word in enumerate(words) if word in ("pgn", "torchrun") or word.endswith("/pgn")), None)
        if start is not None and (start == 0 or words[start - 1] in ("exec", "then", "do")):
            yield [word.strip("\"'") for word in words[start:]]


# --- times, ports and paths ---


def grace_suffices(objects: Sequence[Object]) -> Iterator[str]:
    """A pod gets longer to end than the gateway's drain and deadline, and what TorchServe takes after it."""
    from pgn.serve.torchserve import GRACE_S

    for pod in pods(objects):
        gateway = next((each for each in pod.containers if each.command[-1:] == ["pgn.gateway"]), None)
        if gateway is None:
            continue
        settings = settings_of(gateway, objects)
        hook = gateway.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = hook + settings.drain_delay_s + settings.deadline_s + _SPARE_S + GRACE_S
        given = pod.spec.get("terminationGracePeriodSeconds", 30)
        if given < needed:
            yield f"{pod.name}: terminationGracePeriodSeconds {given}; it needs {needed:g}"
        readiness = gateway.probes["readiness"]
        unready_s = readiness.get("periodSeconds", 10) * readiness.get("failureThreshold", 3)
        if unready_s > hook + settings.drain_delay_s:
            yield f"{pod.name}: it is seen as not ready after {unready_s} s, and drains for {settings.drain_delay_s:g}"


def gateway_port(objects: Sequence[Object]) -> Iterator[str]:
    """The gateway listens beyond loopback, on the port that its container declares."""
    for pod, container in _gateways(objects):
        settings = settings_of(container, objects)
        if settings.host in ("127.0.0.1", "localhost"):
            yield f"{pod.name}: the gateway listens on {settings.host}, where nobody reaches it"
        if settings.port not in container.ports.values():
            yield f"{pod.name}: the gateway listens on {settings.port} and declares {sorted(container.ports.values())}"
        if settings.keys is None and not settings.anonymous:
            yield f"{pod.name}: without PGN_KEYS or PGN_ANONYMOUS the gateway does not start"


def paths_exist(objects: Sequence[Object]) -> Iterator[str]:
    """Every path that a probe or a scrape asks is a route of the gateway, by GET and without a key."""
    asked = [
        (f"{pod.name}, {container.name}: the {kind} probe", probe["httpGet"].get("path", "/"))
        for pod in pods(objects)
        for container in pod.containers
        for kind, probe in container.probes.items()
        if "httpGet" in probe
    ]
    for each in of_kind(objects, "ServiceMonitor"):
        paths = [endpoint.get("path", "/metrics") for endpoint in each["spec"]["endpoints"]]
        asked += [(f"ServiceMonitor/{each['metadata']['name']}", path) for path in paths]
    routes = gateway_paths()
    yield from (f"{who} asks {path}, which the gateway does not have" for who, path in asked if path not in routes)


@cache
def gateway_paths() -> frozenset[str]:
    """The paths that the gateway answers to GET."""
    from pgn.gateway.workers import open_app

    settings = Settings(store=ROOT / "model_store", torchserve_config=ROOT / "config.properties")
    paths = open_app(settings).openapi()["paths"]
    return frozenset(path for path, methods in paths.items() if "get" in methods)


def _gateways(objects: Sequence[Object]) -> Iterator[tuple[Pod, Container]]:
    for pod in pods(objects):
        yield from ((pod, each) for each in pod.containers if each.command[-1:] == ["pgn.gateway"])


CHECKS: Final[tuple[Check, ...]] = (
    settings_known,
    settings_agree,
    paths_mounted,
    torchserve_keys_known,
    torchserve_closed,
    probes_reachable,
    memory_fits,
    commands_known,
    grace_suffices,
    gateway_port,
    paths_exist,
)

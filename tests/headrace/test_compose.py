"""docker-compose.yml and the Dockerfile say nothing that the code does not: settings, ports, roles, pins."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.settings import Settings, load
from headrace.commands_stack import ROLE_MODULES
from headrace.jars import VERSION
from headrace.local_kafka import PROPERTIES
from headrace.stack import ROLES

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PINNED = re.compile(r":v?\d+\.\d+\.\d+(-[a-z0-9.-]+)?$")


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that a role loads in its container; raises on a variable that is no setting."""
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, str(value))
    return load()


def port_of(settings: Settings, role: str) -> int:
    group = {"trainer": "train"}.get(role, role)
    return int(getattr(settings, group).port)


def test_every_role_is_a_service_and_nothing_else() -> None:
    """Services are Kafka, Redis and the roles that `headrace run` knows."""
    assert set(SERVICES) == {"kafka", "redis", *ROLES}
    assert set(ROLES) == set(ROLE_MODULES)


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_images_are_pinned_and_health_is_checked(service: str) -> None:
    """Every image names a full version, every service has a health check and restarts."""
    assert PINNED.search(SERVICES[service]["image"])
    assert SERVICES[service]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_runs_with_settings_that_exist(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable is a known setting; command, health check, ports and data directory are what the role has.

    Its pages are reached from outside of its container, on the port that the host's commands ask by default.
    """
    outside, settings, service = load(), settings_of(role, monkeypatch), SERVICES[role]
    assert service["command"] == ["run", role]
    assert f"http://127.0.0.1:{port_of(settings, role)}/healthz" in service["healthcheck"]["test"][-1]
    assert service["ports"] == [f"127.0.0.1:{port_of(outside, role)}:{port_of(settings, role)}"]
    listens_on = settings.server.host if role == "server" else settings.pages_host
    assert listens_on == "0.0.0.0"  # noqa: S104  (what is checked: other containers and the host reach it)
    assert f"headrace:{settings.data_dir}" in service["volumes"]
    assert all(service["depends_on"][name]["condition"] == "service_healthy" for name in ("kafka", "redis"))


def test_addresses_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles find Kafka and Redis by what those advertise; the host finds both by the defaults."""
    outside = load()
    inside = settings_of("server", monkeypatch)
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"INSIDE://{inside.kafka.bootstrap_servers}" in advertised
    assert f"HOST://{outside.kafka.bootstrap_servers}" in advertised
    assert SERVICES["kafka"]["ports"] == [f"{outside.kafka.bootstrap_servers}:9092"]
    assert inside.redis.url.get_secret_value() == "redis://redis:6379/0"
    assert f"redis://{SERVICES['redis']['ports'][0].rsplit(':', 1)[0]}/0" == outside.redis.url.get_secret_value()


def test_kafka_is_the_one_that_runs_without_docker() -> None:
    """Same version as the local jars; what keeps data and offsets from vanishing is set alike."""
    environment = SERVICES["kafka"]["environment"]
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{VERSION}"
    local = dict(line.split("=", 1) for line in PROPERTIES.splitlines())
    same = (
        "auto.create.topics.enable",
        "offsets.topic.replication.factor",
        "offsets.retention.minutes",
        "transaction.state.log.replication.factor",
        "transaction.state.log.min.isr",
        "share.coordinator.state.topic.replication.factor",
        "share.coordinator.state.topic.min.isr",
        "group.initial.rebalance.delay.ms",
        "log.retention.hours",
    )
    for name in same:
        assert environment[f"KAFKA_{name.upper().replace('.', '_')}"] == local[name], name


def test_volumes_are_declared_and_ports_stay_on_loopback() -> None:
    """Every named volume is declared; nothing is published beyond the host's loopback."""
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert used == set(COMPOSE["volumes"])
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_image_is_pinned_hashed_and_not_root() -> None:
    """The base is a full version, requirements are hash-checked, every package is copied, the user is not root."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.12\.\d+-slim-\w+$", text, re.MULTILINE)
    assert "pip install --require-hashes -r .ci/requirements.txt" in text
    for package in ("contract", "streams", "trainer", "publisher", "headrace"):
        assert f"COPY {package} {package}\n" in text
    assert text.index("USER headrace") < text.index("ENTRYPOINT")
    data = re.search(r"HEADRACE_DATA_DIR=(\S+)", text)
    assert data is not None
    assert data.group(1) == COMPOSE["x-role"]["environment"]["HEADRACE_DATA_DIR"]

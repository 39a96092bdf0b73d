"""compose.yaml, .env.example, the Dockerfile and Prometheus' file agree with the code and with one another."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.settings import Settings

ROOT = Path(__file__).parents[1]

#: What compose.yaml or an image sets of its own accord, and no operator.
OURS = {
    "VAEFARM_REDIS_URL",
    "VAEFARM_LISTEN_HOST",
    "VAEFARM_LISTEN_PORT",
    "VAEFARM_EXPOSED_ON",
    "VAEFARM_COMPILE_CACHE",
}

#: What a command alone reads, and no service.
OF_COMMANDS = {"VAEFARM_ACL_PASSWORDS"}

#: Older names of settings.
OLD = {"VAEFARM_BLOBS", "VAEFARM_BLOB_THRESHOLD"}

#: What nobody sets who is no test of ours.
FAKE = re.compile(r"VAEFARM_FAKE_\w+")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line[1:].split("=", 1) for line in lines if re.match(r"#[A-Z_]+=", line))


def test_the_example_names_every_setting_and_no_other(example: dict[str, str]) -> None:
    fields = {*Settings.model_fields, *GatewaySettings.model_fields}
    options = {
        found
        for path in (ROOT / "producer", ROOT / "worker")
        for file in path.rglob("*.py")
        for found in re.findall(r'envvar="(VAEFARM_[A-Z_]+)"', file.read_text())
        if not FAKE.fullmatch(found)
    }
    known = {f"VAEFARM_{name.upper()}" for name in fields} | options | {"VAEFARM_REMOTE_TOKEN"}
    named = {name for name in example if name.startswith("VAEFARM_")}
    of_compose = {"VAEFARM_BIND", "VAEFARM_PORT", "VAEFARM_VERSION"}
    assert named - of_compose == known - OURS - OLD - OF_COMMANDS


def test_the_example_tells_each_default_of_the_compose_file(example: dict[str, str]) -> None:
    text = (ROOT / "compose.yaml").read_text()
    defaults: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{([A-Z_]+):?-([^}]*)\}", text):
        defaults.setdefault(name, set()).add(default)
    assert len(re.findall(r"\$\{", text)) == len(re.findall(r"\$\{[A-Z_]+:?-[^}]*\}", text)), (
        "a variable has no default"
    )
    for name, found in defaults.items():
        assert found == {example[name]}, name


def test_settings_have_the_defaults_that_the_example_tells(example: dict[str, str]) -> None:
    settings = {**Settings.from_env().model_dump(), **GatewaySettings.from_env().model_dump()}
    compose_has_its_own = {"store", "drain_seconds", "log_format", "keys", "allowed_hosts"}
    for name, value in settings.items():
        told = example.get(f"VAEFARM_{name.upper()}")
        if told and name not in compose_has_its_own:
            assert str(value).lower().removesuffix(".0") == told, name


def test_every_service_is_confined_and_starts_again(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"redis", "gateway", "worker", "worker-gpu", "reaper", "prometheus"}
    for name, service in compose["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
    assert "ports" not in compose["services"]["redis"]
    assert compose["services"]["redis"]["networks"] == ["farm"]
    assert compose["networks"]["farm"] == {"internal": True}


def test_a_worker_is_given_longer_to_stop_than_it_takes(example: dict[str, str]) -> None:
    assert int(example["WORKER_STOP_GRACE"].removesuffix("s")) > int(example["VAEFARM_DRAIN_SECONDS"])


def test_prometheus_asks_the_gateway_where_it_listens(compose: dict[str, Any]) -> None:
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in compose["services"]
    assert compose["services"][host]["environment"]["VAEFARM_LISTEN_PORT"] == int(port)


def test_images_are_of_the_version_that_the_project_has() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert f"ARG VERSION={version[1]}\n" in (ROOT / "Dockerfile").read_text()
    assert f"${{VAEFARM_VERSION:-{version[1]}}}" in (ROOT / "compose.yaml").read_text()

"""The manifests: Kubernetes and KEDA take them, they agree with one another, and with what the farm really reads."""

import re
import warnings
from collections.abc import Iterator
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from tests.conftest import RedisServer, redis_servers
from tests.deploy.keda import SCHEMAS

from vaefarm_producer import cli
from vaefarm_producer.acl_file import user_name
from vaefarm_producer.gateway.app import create_app
from vaefarm_producer.gateway.models import QueuesAnswer
from vaefarm_producer.gateway.routes import ROUTES
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared import acl
from vaefarm_shared.connection import connect
from vaefarm_shared.redis_policy import check_policy, read_policy
from vaefarm_shared.settings import Settings

ROOT = Path(__file__).parents[2] / "deploy" / "kubernetes"

#: Kubernetes' releases that the manifests are for.
RELEASES = ("1.30", "1.37")

Manifest = dict[str, Any]


def read(name: str) -> list[Manifest]:
    return [one for one in yaml.safe_load_all((ROOT / name).read_text()) if one is not None]


def kustomization(folder: str) -> Manifest:
    (found,) = read(f"{folder}/kustomization.yaml")
    return found


def merged(base: Any, patch: Any) -> Any:
    """A patch laid over a manifest as Kubernetes does: lists of named things by name, other lists as a whole."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {
            key: merged(base[key], patch[key])
            if key in base and key in patch
            else deepcopy(patch.get(key, base.get(key)))
            for key in {**base, **patch}
        }
    if isinstance(base, list) and isinstance(patch, list) and all("name" in one for one in [*base, *patch]):
        named = {one["name"]: one for one in base}
        for one in patch:
            # An entry of `env` has a value or a source, not both.
            named[one["name"]] = one if "value" in one else merged(named.get(one["name"], {}), one)
        return list(named.values())
    return deepcopy(patch)


def base() -> list[Manifest]:
    return [one for name in kustomization("base")["resources"] for one in read(f"base/{name}")]


def with_gpus() -> list[Manifest]:
    patches = {(one["kind"], one["metadata"]["name"]): one for one in read("gpu/worker.yaml")}
    found = [merged(one, patches.pop((one["kind"], one["metadata"]["name"]), {})) for one in base()]
    assert not patches, "a patch that patches nothing"
    return found


def named(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def workloads(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Pods by what makes them."""
    made = named(manifests, "Deployment") | named(manifests, "StatefulSet")
    return {name: one["spec"]["template"] for name, one in made.items()}


def containers(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    for template in workloads(manifests).values():
        for container in template["spec"]["containers"]:
            yield template, container


def selected(manifests: list[Manifest], labels: dict[str, str]) -> list[Manifest]:
    return [pod for pod in workloads(manifests).values() if labels.items() <= pod["metadata"]["labels"].items()]


def ports(pod: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in pod["spec"]["containers"] for port in one.get("ports", ())}


def literals() -> dict[str, str]:
    """The variables of the configuration that all share."""
    generated = {one["name"]: one for one in kustomization("base")["configMapGenerator"]}
    return dict(one.split("=", 1) for one in generated["vaefarm"]["literals"])


def environment(container: Manifest) -> dict[str, str | None]:
    """A container's variables; None for those out of a secret."""
    shared = literals() if container.get("envFrom") else {}
    return shared | {one["name"]: one.get("value") for one in container.get("env", ())}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("made", [base, with_gpus], ids=["base", "gpu"])
def test_kubernetes_takes_every_manifest_and_knows_every_field(made: Any, release: str) -> None:
    for manifest in [*made(), *read("secret.example.yaml")]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            kubernetes_validate.validate(manifest, release, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    manifest = named(base(), "Deployment")["vaefarm-worker"]
    manifest["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, RELEASES[-1], strict=True)


def test_keda_takes_its_objects() -> None:
    objects = read("keda/scaled-object.yaml")
    for manifest in objects:
        jsonschema.Draft202012Validator(SCHEMAS[manifest["kind"]]).validate(manifest)
    assert {one["kind"] for one in objects} == set(SCHEMAS)


def test_every_file_is_part_of_a_kustomization_but_the_example_of_secrets() -> None:
    parts = {"base": [], "gpu": ["worker.yaml"], "keda": []}
    for folder, patches in parts.items():
        assert [one["path"] for one in kustomization(folder).get("patches", ())] == patches
        files = {path.name for path in (ROOT / folder).glob("*.yaml")} - {"kustomization.yaml", *patches}
        assert files == {one for one in kustomization(folder)["resources"] if one.endswith(".yaml")}
    assert {path.name for path in ROOT.glob("*.yaml")} == {"secret.example.yaml"}


def test_services_budgets_and_policies_select_pods_that_there_are_and_name_their_ports() -> None:
    manifests = base()
    for name, service in named(manifests, "Service").items():
        (pod,) = selected(manifests, service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports(pod)), name
        assert {port["port"] for port in service["spec"]["ports"]} == set(ports(pod).values()), name
    for name, budget in named(manifests, "PodDisruptionBudget").items():
        assert len(selected(manifests, budget["spec"]["selector"]["matchLabels"])) == 1, name
    assert set(named(manifests, "PodDisruptionBudget")) == {"vaefarm-gateway", "vaefarm-worker"}
    for name, policy in named(manifests, "NetworkPolicy").items():
        pods = selected(manifests, policy["spec"]["podSelector"].get("matchLabels", {}))
        assert pods, name
        for rule in policy["spec"].get("ingress", ()):
            assert all(port["port"] in ports(pod) for pod in pods for port in rule["ports"]), name
            for source in rule.get("from", ()):
                assert selected(manifests, source["podSelector"]["matchLabels"]), name
    for template, container in containers(manifests):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how in ("httpGet", "tcpSocket"):
                if how in container.get(probe, {}):
                    assert container[probe][how]["port"] in ports(template), (container["name"], probe)


def test_whoever_uses_redis_is_let_through_to_it_and_nobody_else() -> None:
    manifests = base()
    (rule,) = named(manifests, "NetworkPolicy")["vaefarm-redis"]["spec"]["ingress"]
    (source,) = rule["from"]
    let_through = selected(manifests, source["podSelector"]["matchLabels"])
    need = [pod for pod, one in containers(manifests) if "VAEFARM_REDIS_URL" in environment(one)]

    assert need == let_through
    assert len(need) == 3


def test_secrets_and_configuration_that_pods_name_are_there() -> None:
    secrets = {one["metadata"]["name"]: set(one["stringData"]) for one in read("secret.example.yaml")}
    configurations = {one["name"] for one in kustomization("base")["configMapGenerator"]}
    wanted: set[tuple[str, str | None]] = set()
    for template, container in containers(base()):
        for source in container.get("envFrom", ()):
            assert source["configMapRef"]["name"] in configurations
        for variable in container.get("env", ()):
            if (reference := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                wanted.add((reference["name"], reference["key"]))
        volumes = {one["name"]: one for one in template["spec"].get("volumes", ())}
        for volume in volumes.values():
            if "secret" in volume:
                name = volume["secret"]["secretName"]
                wanted |= {(name, item["key"]) for item in volume["secret"].get("items", ())} or {(name, None)}
            assert volume.get("configMap", {}).get("name") in {None, *configurations}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claimed = {"data"} if container["name"] == "redis" else set()
        assert mounted == set(volumes) | claimed, container["name"]
    (authentication,) = [one for one in read("keda/scaled-object.yaml") if one["kind"] == "TriggerAuthentication"]
    wanted |= {(one["name"], one["key"]) for one in authentication["spec"]["secretTargetRef"]}

    assert all(name in secrets and (key is None or key in secrets[name]) for name, key in wanted)
    assert {name for name, _ in wanted} == set(secrets), "an example that nothing needs"


def test_the_example_of_secrets_names_the_users_that_vaefarm_acl_writes_and_the_service_of_redis() -> None:
    (urls,) = [
        one["stringData"] for one in read("secret.example.yaml") if one["metadata"]["name"] == "vaefarm-redis-urls"
    ]
    (service,) = [one for name, one in named(base(), "Service").items() if "redis" in name]
    for role, url in urls.items():
        parts = urlsplit(url)
        assert parts.username == user_name(acl.role(role).name, "vaefarm-")
        assert (parts.hostname, parts.port) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
        assert parts.password == "PASSWORD", "a password of somebody's own"


def known_variables() -> set[str]:
    """Every VAEFARM_* that something of the farm reads."""
    found = {f"VAEFARM_{name.upper()}" for model in (Settings, GatewaySettings) for name in model.model_fields}
    for name in cli.COMMANDS:
        pending: list[Any] = [cli.LazyGroup().get_command(typer.Context(typer.main.get_command(cli.app)), name)]
        while pending:
            command = pending.pop()
            pending += getattr(command, "commands", {}).values()
            for option in command.params:
                variables = option.envvar or ()
                found |= {variables} if isinstance(variables, str) else set(variables)
    return found | {"VAEFARM_COMPILE_CACHE"}


def test_every_variable_of_the_farm_in_the_manifests_is_one_that_it_reads() -> None:
    used = {name for _, one in containers(with_gpus()) for name in environment(one) if name.startswith("VAEFARM_")}
    mentioned = set(re.findall(r"VAEFARM_[A-Z_]+", "".join(path.read_text() for path in ROOT.rglob("*.yaml"))))

    assert used | mentioned <= known_variables()
    assert used >= {"VAEFARM_REDIS_URL", "VAEFARM_KEYS", "VAEFARM_DEVICE", "VAEFARM_DRAIN_SECONDS"}


def test_every_container_runs_a_command_of_the_farm_in_its_release() -> None:
    for _, container in containers(base()):
        if container["name"] != "redis":
            assert container["args"][0] in cli.COMMANDS
            assert container["image"] in {one["name"] for one in kustomization("base")["images"]}
    images = kustomization("base")["images"] + kustomization("gpu")["images"]
    assert {one["newTag"] for one in images} == {version("vaefarm")}
    # Those that compose builds.
    compose = (ROOT.parents[1] / "compose.yaml").read_text()
    assert all(f"image: {one.get('newName', one['name'])}:" in compose for one in images)


@pytest.mark.parametrize("made", [base, with_gpus], ids=["base", "gpu"])
def test_no_pod_is_root_writes_its_image_or_has_a_capability(made: Any) -> None:
    for template, container in containers(made()):
        pod, own = template["spec"]["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"]
        assert pod["runAsUser"] == (999 if container["name"] == "redis" else 10001)
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert template["spec"]["automountServiceAccountToken"] is False
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_a_pod_that_ends_has_longer_than_what_it_runs_takes_to_drain() -> None:
    drain = float(literals()["VAEFARM_DRAIN_SECONDS"])
    pods = workloads(base())
    for name in ("vaefarm-worker", "vaefarm-gateway"):
        (container,) = pods[name]["spec"]["containers"]
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pods[name]["spec"]["terminationGracePeriodSeconds"] >= drain + before + 10, name
    (worker,) = pods["vaefarm-worker"]["spec"]["containers"]
    assert "lifecycle" not in worker, "a worker claims on while its preStop runs"


async def test_probes_and_keda_ask_what_a_gateway_answers() -> None:
    manifests = base()
    gateway = workloads(manifests)["vaefarm-gateway"]["spec"]["containers"][0]
    asked = [gateway[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    (scaled,) = [one for one in read("keda/scaled-object.yaml") if one["kind"] == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    service = named(manifests, "Service")["vaefarm-gateway"]
    app = create_app(Settings(), GatewaySettings(allowed_hosts=literals()["VAEFARM_ALLOWED_HOSTS"]))

    assert asked == ["/health", "/ready?need=redis", "/health"]
    assert all(app[ROUTES]["GET", path.partition("?")[0]].access == "open" for path in asked)
    assert app[ROUTES]["GET", url.path].answer is QueuesAnswer
    assert app[ROUTES]["GET", url.path].access == "key"
    assert trigger["metadata"]["valueLocation"] in QueuesAnswer.model_fields
    assert url.port == service["spec"]["ports"][0]["port"]
    assert url.hostname is not None
    assert url.hostname.split(".")[:2] == ["vaefarm-gateway", kustomization("base")["namespace"]]
    assert url.hostname in literals()["VAEFARM_ALLOWED_HOSTS"].split(",")
    assert scaled["spec"]["scaleTargetRef"]["name"] in named(manifests, "Deployment")
    assert (
        scaled["spec"]["minReplicaCount"] <= scaled["spec"]["fallback"]["replicas"] <= scaled["spec"]["maxReplicaCount"]
    )


def test_a_gpu_is_asked_for_and_used_and_no_second_pod_waits_for_it() -> None:
    deployment = named(with_gpus(), "Deployment")["vaefarm-worker"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert environment(container)["VAEFARM_DEVICE"] == "cuda:0"
    assert environment(container)["HF_HOME"] == "/cache/huggingface"
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_a_redis_with_that_configuration_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text("user default on nopass ~* &* +@all\n")
    written = (ROOT / "base" / "redis.conf").read_text()
    text = written.replace("/data", str(tmp_path)).replace("/etc/redis-users", str(tmp_path))
    (tmp_path / "redis.conf").write_text(text)

    server = RedisServer(str(wrapper(tmp_path, next(iter(redis_servers().values())))), tmp_path)
    server.start()
    with connect(server.url) as client:
        warnings_of = check_policy(client, allow_eviction=False)
        policy = read_policy(client)
        kept = {name: client.config_get(name)[name] for name in ("rdbcompression", "auto-aof-rewrite-min-size")}
    server.stop()
    (limit,) = [one["resources"]["limits"]["memory"] for _, one in containers(base()) if one["name"] == "redis"]

    assert warnings_of == []
    assert (policy.appendfsync, policy.maxmemory_policy) == ("always", "noeviction")
    assert kept == {"rdbcompression": "no", "auto-aof-rewrite-min-size": str(512 * 2**20)}
    assert policy.maxmemory <= 0.7 * int(limit.removesuffix("Gi")) * 2**30


def wrapper(folder: Path, binary: str) -> Path:
    """A command that starts a redis-server with the configuration of a folder before its other options."""
    path = folder / "redis-with-configuration"
    path.write_text(f'#!/bin/sh\nexec {binary} {folder}/redis.conf "$@"\n')
    path.chmod(0o755)
    return path

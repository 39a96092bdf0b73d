"""A farm for programs that others wrote: redis-server, a worker with small VAEs, a gateway with a key."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from tests.conftest import RedisServer, eventually, redis_servers
from tests.gateway.hf_farm import own_address, running_gateway
from tests.pipelines.conftest import at_work
from tests.worker.test_local_encoder import save_flux2, save_qwen

from vaefarm_producer import Farm
from vaefarm_producer.gateway.key_file import add_key, new_entry, new_key
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.worker import Worker

ROOT = Path(__file__).parents[2]

#: What the worker serves. `sd3` and `cogview4` are in the catalogue too, and nobody serves them.
SERVED = ("sd-v1", "sdxl", "flux", "taesd", "flux2", "qwen-image")


@dataclass(frozen=True)
class Served:
    """A farm, by HTTP and by Redis."""

    url: str
    key: str = field(repr=False)
    redis_url: str
    #: A folder with the worker's VAEs, and their catalogue.
    vaes: Path
    farm: Farm

    def kept(self) -> set[bytes]:
        """Keys of all that Redis has of jobs."""
        with closing(connect(self.redis_url)) as connection:
            kinds = ("job", "image", "latent")
            return {key for kind in kinds for key in connection.scan_iter(f"vaefarm:{kind}:*", count=1000)}


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_vaes: Path, shared_lifelines: Callable[[Settings], Lifeline]
) -> Iterator[Served]:
    """One farm for all of them; nobody changes it."""
    folder = tmp_path_factory.mktemp("integrations")
    vaes = folder / "vaes"
    shutil.copytree(tiny_vaes, vaes)
    save_flux2(vaes / "flux2")
    save_qwen(vaes / "qwen-image")
    channels = {"flux2": "latent_channels = 8\n", "qwen-image": "latent_channels = 4\n"}
    entries = [f'[vaes.{vae}]\npath = "{vaes / vae}"\n{channels.get(vae, "")}' for vae in SERVED]
    (vaes / "catalogue.toml").write_text("".join(entries))

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name in list(os.environ):
            if name.startswith("VAEFARM_"):
                patch.delenv(name)
        redis = RedisServer(next(iter(redis_servers().values())), folder)
        redis.start()
        stack.callback(redis.stop)
        settings = Settings.from_env(redis_url=redis.url, catalogue=str(vaes / "catalogue.toml"))
        catalogue = Catalogue.load(settings.catalogue)
        decoder = LocalDecoder([catalogue[vae] for vae in SERVED], "cpu")
        stack.enter_context(at_work(Worker(settings, decoder, "beside", shared_lifelines(settings))))
        with Farm(settings=settings) as farm:
            eventually("the worker tells that it serves", farm.workers)
        key, host = new_key(), own_address()
        add_key(folder / "keys.toml", new_entry("someone", key, admin=False, rate=None, max_in_flight=None))
        address = stack.enter_context(running_gateway(settings, host, keys=folder / "keys.toml"))
        farm = stack.enter_context(Farm(settings=settings))
        yield Served(f"http://{address}", key, redis.url, vaes, farm)


@pytest.fixture(params=["http", "redis"])
def told(request: pytest.FixtureRequest, served: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Variables that lead ComfyUI to the farm, over a gateway with a key, or over Redis."""
    if request.param == "http":
        monkeypatch.setenv("VAEFARM_URL", served.url)
        monkeypatch.setenv("VAEFARM_KEY", served.key)
    else:
        monkeypatch.setenv("VAEFARM_URL", served.redis_url)
    return served


def load_custom_node(folder: Path) -> ModuleType:
    """Import a package of nodes as ComfyUI imports one of its custom_nodes: by path, under a name made of it."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def custom_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the nodes where ComfyUI would have them."""
    folder = tmp_path_factory.mktemp("ComfyUI") / "custom_nodes" / "vaefarm"
    shutil.copytree(ROOT / "integrations" / "comfyui", folder, ignore=shutil.ignore_patterns("vaefarm.toml"))
    return folder


@pytest.fixture(scope="session")
def comfyui(custom_node: Path) -> Iterator[ModuleType]:
    """The nodes, as ComfyUI has them."""
    module = load_custom_node(custom_node)
    yield module
    sys.modules[f"{module.__name__}.farms"].FARMS.close()

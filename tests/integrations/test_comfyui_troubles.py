"""ComfyUI's nodes where something is wrong: one line each; Cancel cancels jobs; a key goes to its own farm alone."""

import asyncio
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.conftest import DEADLINE_SECONDS, eventually
from tests.integrations.comfy import Interrupt, call, latent, picture, run
from tests.integrations.conftest import Served, load_custom_node

from vaefarm_producer import Job
from vaefarm_producer.local.redis_server import free_port
from vaefarm_shared.job import JobStatus


def refused(comfyui: ModuleType, name: str, **inputs: Any) -> str:
    """The line that ComfyUI's dialog shows, once it is known that it is one, with no other error behind it."""
    with pytest.raises(RuntimeError) as caught:
        run(comfyui, name, **inputs)
    line = str(caught.value)
    assert line.startswith("vaefarm: ")
    assert "\n" not in line
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    return line


def test_a_wrong_key_is_named_as_such_and_not_shown(
    comfyui: ModuleType, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEFARM_URL", served.url)
    monkeypatch.setenv("VAEFARM_KEY", "not-a-key-of-anybody")
    line = refused(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl")
    assert "key" in line
    assert "not-a-key-of-anybody" not in line


@pytest.mark.parametrize("scheme", ["http", "redis"])
def test_a_farm_that_is_not_there_is_one_line(
    scheme: str, comfyui: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("VAEFARM_URL", f"{scheme}://127.0.0.1:{port}")
    monkeypatch.setenv("VAEFARM_KEY", "a-key-of-mine" if scheme == "http" else "")
    monkeypatch.setenv("VAEFARM_SUBMIT_TIMEOUT", "0.5")
    line = refused(comfyui, "VaefarmEncode", pixels=picture(1, 64, 64), vae="sdxl")
    assert str(port) in line
    assert "a-key-of-mine" not in line


def test_no_farm_at_all_says_where_one_is_named(comfyui: ModuleType) -> None:
    line = refused(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl")
    assert "set VAEFARM_URL" in line
    assert "vaefarm.toml" in line


def test_latents_of_another_model_are_refused_with_what_was_expected(comfyui: ModuleType, told: Served) -> None:
    line = refused(comfyui, "VaefarmSubmit", samples=latent(1, 16, 8, 8), vae="sdxl")
    assert "(1, 16, 8, 8)" in line
    assert "4" in line


def test_a_vae_that_nobody_knows_is_named(comfyui: ModuleType, told: Served) -> None:
    line = refused(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl", other_vae=" nobodys ")
    assert "'nobodys'" in line


def test_a_video_is_refused_before_anything_is_queued(comfyui: ModuleType, told: Served) -> None:
    line = refused(comfyui, "VaefarmDecode", samples=latent(1, 16, 5, 8, 8), vae="flux")
    assert "a video of 5 latent frames" in line


def test_a_picture_below_the_smallest_is_refused(comfyui: ModuleType, told: Served) -> None:
    line = refused(comfyui, "VaefarmEncode", pixels=picture(1, 15, 64), vae="flux")
    assert "64 x 15 pixels; expected 16 x 16 or more" in line


@pytest.mark.parametrize("inputs", [{}, {"job": object(), "job_id": "some"}])
def test_collect_wants_one_job(inputs: dict[str, Any], comfyui: ModuleType) -> None:
    assert "either a job, connected to it, or a job_id" in refused(comfyui, "VaefarmCollect", **inputs)


def test_a_job_that_nobody_knows_is_named(comfyui: ModuleType, told: Served) -> None:
    assert "'nobodys-job'" in refused(comfyui, "VaefarmCollect", job_id="nobodys-job")


def test_a_wait_without_a_worker_ends_after_its_timeout_and_leaves_nothing(comfyui: ModuleType, told: Served) -> None:
    before = told.kept()
    line = refused(comfyui, "VaefarmDecode", samples=latent(1, 16, 8, 8), vae="sd3", timeout=0.3)
    assert "has not ended within 0.3 seconds" in line
    eventually("the job is gone", lambda: told.kept() == before)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    return Interrupt(monkeypatch)


def queued(served: Served, vae: str) -> list[str]:
    """Ids of the jobs that wait."""
    return [job.id for job in served.farm.queued(vae) if job.status() == JobStatus.QUEUED]


async def interrupted(comfyui: ModuleType, served: Served, flag: Interrupt, name: str, **inputs: Any) -> None:
    """Run a node until its job waits, then cancel the prompt."""
    running = asyncio.ensure_future(call(comfyui, name, **inputs))
    await asyncio.to_thread(eventually, "a job waits", lambda: queued(served, "sd3"))
    assert not running.done()
    flag.is_set = True
    with pytest.raises(Interrupt.InterruptProcessingException):
        await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert not flag.is_set


def test_cancel_discards_the_job_of_a_decode(comfyui: ModuleType, told: Served, interrupt: Interrupt) -> None:
    before = told.kept()
    asyncio.run(
        interrupted(comfyui, told, interrupt, "VaefarmDecode", samples=latent(1, 16, 8, 8), vae="sd3", timeout=0)
    )
    eventually("the job is gone", lambda: told.kept() == before)
    assert not queued(told, "sd3")


def test_cancel_ends_a_connected_job_and_the_next_prompt_submits_anew(
    comfyui: ModuleType, told: Served, interrupt: Interrupt
) -> None:
    submit = comfyui.NODE_CLASS_MAPPINGS["VaefarmSubmit"]
    samples = latent(1, 16, 8, 8)
    handle, job_id = run(comfyui, "VaefarmSubmit", samples=samples, vae="sd3", unique_id="7")["result"]
    # As ComfyUI asks: what is linked it does not know yet.
    before = submit.IS_CHANGED(samples=None, vae="sd3", unique_id="7")

    asyncio.run(interrupted(comfyui, told, interrupt, "VaefarmCollect", job=handle))

    eventually("the job is gone", lambda: job_id not in queued(told, "sd3"))
    assert submit.IS_CHANGED(samples=None, vae="sd3", unique_id="7") != before
    assert submit.IS_CHANGED(samples=None, vae="sd3", unique_id="8") == 0


def test_cancel_leaves_a_job_of_another_prompt_alone(comfyui: ModuleType, told: Served, interrupt: Interrupt) -> None:
    _, job_id = run(comfyui, "VaefarmSubmit", samples=latent(1, 16, 8, 8), vae="sd3")["result"]
    asyncio.run(interrupted(comfyui, told, interrupt, "VaefarmCollect", job_id=job_id))
    assert queued(told, "sd3") == [job_id]
    told.farm.job(job_id).discard()


def test_cancel_does_not_wait_for_a_submit_and_discards_its_job_once_there_is_one(
    comfyui: ModuleType, told: Served, interrupt: Interrupt
) -> None:
    begun, gate, jobs = threading.Event(), threading.Event(), list[Job]()

    def submit() -> Job:
        begun.set()
        assert gate.wait(DEADLINE_SECONDS)
        jobs.append(told.farm.submit(latent(1, 16, 8, 8)["samples"], vae="sd3"))
        return jobs[0]

    async def prompt() -> None:
        running = asyncio.ensure_future(sys.modules[f"{comfyui.__name__}.waiting"].submitted(submit))
        assert await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
        interrupt.is_set = True
        with pytest.raises(Interrupt.InterruptProcessingException):
            await asyncio.wait_for(running, DEADLINE_SECONDS)

    asyncio.run(prompt())
    assert not jobs
    gate.set()
    eventually("the job is gone", lambda: jobs and jobs[0].status() == JobStatus.EXPIRED)


def test_a_job_that_came_to_nothing_is_submitted_anew_by_the_next_prompt(comfyui: ModuleType, told: Served) -> None:
    submit = comfyui.NODE_CLASS_MAPPINGS["VaefarmSubmit"]
    handle, job_id = run(comfyui, "VaefarmSubmit", samples=latent(1, 16, 8, 8), vae="sd3", unique_id="9")["result"]
    before = submit.IS_CHANGED(unique_id="9")
    told.farm.job(job_id).cancel()
    line = refused(comfyui, "VaefarmCollect", job=handle)
    assert "was canceled; queue the prompt once more to submit it anew" in line
    assert submit.IS_CHANGED(unique_id="9") != before


def test_other_nodes_run_while_one_waits_and_an_ended_prompt_discards_what_still_waited(
    comfyui: ModuleType, told: Served
) -> None:
    before = told.kept()

    async def prompt() -> torch.Tensor:
        waiting = asyncio.ensure_future(
            call(comfyui, "VaefarmDecode", samples=latent(1, 16, 8, 8), vae="sd3", timeout=0)
        )
        await asyncio.to_thread(eventually, "a job waits", lambda: queued(told, "sd3"))
        (image,) = await call(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl")
        assert not waiting.done()
        # As asyncio.run ends whatever a prompt that failed has left.
        return image  # type: ignore[no-any-return]

    assert asyncio.run(prompt()).shape == (1, 64, 64, 3)
    eventually("the job is gone", lambda: told.kept() == before)


class Listener(BaseHTTPRequestHandler):
    """A stranger who notes what it is sent."""

    heard: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers.get("Authorization")))
        self.send_response(404)
        self.end_headers()

    do_POST = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server of somebody else, and what it heard."""
    heard: list[tuple[str, str | None]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (Listener,), {"heard": heard}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_key_goes_to_no_address_that_a_workflow_brings(
    comfyui: ModuleType, served: Served, stranger: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, heard = stranger
    monkeypatch.setenv("VAEFARM_URL", served.url)
    monkeypatch.setenv("VAEFARM_KEY", served.key)
    monkeypatch.setenv("VAEFARM_SUBMIT_TIMEOUT", "0.5")
    refused(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl", url=url)
    assert heard
    assert {authorization for _, authorization in heard} == {None}


def test_the_key_goes_to_its_own_farm_however_its_address_is_written(
    comfyui: ModuleType, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEFARM_URL", served.url)
    monkeypatch.setenv("VAEFARM_KEY", served.key)
    url = f" {served.url.replace('http', 'HTTP')}/ "
    (image,) = run(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl", url=url)
    assert image.shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    "url", ["https://vaefarm:hidden@farm.example", "https://hidden@farm.example", "redis://:hidden@farm.example"]
)
def test_a_password_in_a_workflow_is_refused_and_not_repeated(url: str, comfyui: ModuleType) -> None:
    line = refused(comfyui, "VaefarmCollect", job_id="some", url=url)
    assert "holds a password, which ComfyUI saves in every picture" in line
    assert "hidden" not in line


@pytest.fixture
def nodes_with_file(custom_node: Path, tmp_path: Path) -> Iterator[tuple[ModuleType, Path]]:
    """Nodes of their own folder, and where their file would be."""
    folder = tmp_path / "custom_nodes" / "vaefarm"
    shutil.copytree(custom_node, folder)
    module = load_custom_node(folder)
    yield module, folder / "vaefarm.toml"
    sys.modules[f"{module.__name__}.farms"].FARMS.close()


def test_a_file_beside_the_nodes_names_farm_and_key(
    nodes_with_file: tuple[ModuleType, Path], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, file = nodes_with_file
    file.write_text(f'url = "{served.url}"\nkey = "{served.key}"\n')
    assert run(nodes, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl")[0].shape == (1, 64, 64, 3)

    # The environment wins, and the file's key is for the file's address.
    monkeypatch.setenv("VAEFARM_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("VAEFARM_SUBMIT_TIMEOUT", "0.5")
    assert "127.0.0.1" in refused(nodes, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl")


@pytest.mark.parametrize("text", ['key = "hidden"', "url = hidden", 'url = "https://farm.example"\nkey = 1'])
def test_a_file_that_is_not_right_is_one_line_without_its_key(
    text: str, nodes_with_file: tuple[ModuleType, Path]
) -> None:
    nodes, file = nodes_with_file
    file.write_text(text)
    line = refused(nodes, "VaefarmCollect", job_id="some")
    assert "vaefarm.toml beside the nodes" in line
    assert "hidden" not in line

"""The text that UIs read back: prompts and values come out as they went in, whichever UI reads."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worker.items import spec_of
from tests.worker.ui_readers import a1111, civitai, comfyui, sdnext

from vaefarm_worker.infotext import infotext, of_picture

PROMPT = 'a cat, "sitting": (on a mat:1.2), <lora:x:0.8>\n5" nails\\, 猫 é 🐈'
NEGATIVE = "blurry, bad: hands\nworst quality"
FULL = {
    "prompt": PROMPT,
    "negative_prompt": NEGATIVE,
    "num_inference_steps": "20",
    "scheduler": "EulerAncestralDiscreteScheduler",
    "guidance_scale": "7.5",
    "seed": "18446744073709551615",
    "model": "stabilityai/sdxl, base: 1.0",
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail where the block has not ended by then: a pattern may try for hours, and lets nobody else run meanwhile."""

    def end(number: int, frame: object) -> None:
        pytest.fail(f"not within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def text_of(metadata: dict[str, str], index: int = 0, count: int = 1) -> str:
    spec = spec_of(count=count, height=768, width=512)
    return infotext(of_picture(metadata, index, count), spec, index, "vaefarm 1.2.3")


def test_a1111_reads_back_prompts_with_quotes_colons_and_lines_and_each_value() -> None:
    read = a1111(text_of(FULL))

    assert (read["Prompt"], read["Negative prompt"]) == (PROMPT, NEGATIVE)
    assert (read["Steps"], read["Sampler"], read["CFG scale"], read["Seed"]) == ("20", "Euler a", "7.5", FULL["seed"])
    assert (read["Size-1"], read["Size-2"], read["Model"]) == ("512", "768", FULL["model"])
    assert read["Version"] == "vaefarm 1.2.3"


def test_sdnext_comfyui_and_civitai_read_it_as_well() -> None:
    text = text_of(FULL | {"model": "sdxl"})
    others, graph, site = sdnext(text), comfyui(text), civitai(text)

    assert graph is not None
    assert site is not None
    assert (others["Prompt"], others["Negative prompt"]) == (PROMPT, NEGATIVE)
    assert (graph["positive"], graph["negative"]) == (PROMPT, NEGATIVE)
    assert (site["prompt"], site["negativePrompt"]) == (PROMPT, NEGATIVE)
    for read, seed, steps in ((others, "Seed", "Steps"), (graph, "seed", "steps"), (site, "Seed", "Steps")):
        assert (read[seed], read[steps]) == (FULL["seed"], "20")
    assert (others["Model"], graph["model"], site["Model"]) == ("sdxl", "sdxl", "sdxl")


def test_a_prompt_alone_is_enough_for_a_line_of_pairs() -> None:
    assert a1111(text_of({"prompt": "Steps: 1, Sampler: x, Seed: 2"}))["Prompt"] == "Steps: 1, Sampler: x, Seed: 2"
    assert sdnext(text_of({"prompt": "a cat"}))["Prompt"] == "a cat"


@pytest.mark.parametrize("blank", ["\n", " ", "\r\n", "Negative prompt:\n"])
def test_as_much_blank_as_metadata_may_have_costs_no_time_worth_naming(blank: str) -> None:
    prompt = f"a cat{blank * (16_000 // len(blank))}on a mat"

    with at_most(5):
        text = text_of({"prompt": prompt})

    assert text.startswith("a cat")
    assert "on a mat\nSize: 512x768" in text


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"steps": "4"}, {"Steps": "4"}),
        ({"Steps": "4", "CFG scale": "1", "Sampler": "Euler"}, {"Steps": "4", "CFG scale": "1", "Sampler": "Euler"}),
        ({"cfg_scale": "5"}, {"CFG scale": "5"}),
        ({"guidance_scale": "3.5", "true_cfg_scale": "1.0"}, {"CFG scale": "1.0", "Distilled CFG Scale": "3.5"}),
        ({"sampler": "DPM++ 2M", "scheduler": "karras"}, {"Sampler": "DPM++ 2M", "Schedule type": "karras"}),
        ({"scheduler": "MyScheduler"}, {"Sampler": "MyScheduler"}),
        (
            {
                "scheduler": "DPMSolverMultistepScheduler",
                "algorithm_type": "sde-dpmsolver++",
                "use_karras_sigmas": "True",
            },
            {"Sampler": "DPM++ 2M SDE", "Schedule type": "Karras"},
        ),
        ({"strength": "0.6", "model_hash": "abc"}, {"Denoising strength": "0.6", "Model hash": "abc"}),
        ({"my-own/key": "a, b"}, {"my own key": "a, b"}),
        ({"ключ 1": '"'}, {"ключ 1": '"'}),
        ({"own key": '"a"'}, {"own key": '"a"'}),
    ],
)
def test_each_known_key_has_the_uis_name_and_others_keep_theirs(
    metadata: dict[str, str], expected: dict[str, str]
) -> None:
    assert a1111(text_of(metadata)).items() >= expected.items()


def test_no_key_takes_the_place_of_a_value_that_uis_know() -> None:
    hostile = {"prompt": "a cat", "seed": "1", "SEED": "2", "size": "9x9", "PROMPT": "a dog", "prompt_": "x"}
    read = a1111(text_of(hostile | {"negative-prompt": "y", "a": "too short", "\n": "z", ",:": "z"}))

    assert read.items() >= {"Prompt": "a cat", "Seed": "1", "Size-1": "512", "prompt_": "x"}.items()
    assert not {"SEED", "size", "PROMPT", "negative prompt", "a"} & set(read)


def test_a_line_of_a_prompt_that_begins_as_the_negative_one_stays_in_the_prompt() -> None:
    read = a1111(text_of({"prompt": "a cat\nNegative prompt: a dog", "negative_prompt": "a\n Negative prompt: b"}))

    assert read["Prompt"] == "a cat Negative prompt: a dog"
    assert read["Negative prompt"] == "a Negative prompt: b"


def test_a_prompt_has_no_control_characters_in_it() -> None:
    assert text_of({"prompt": "a\x00 \x1b[1mcat\x7f\r\nsitting"}).startswith("a [1mcat\nsitting\nSize: ")


def test_pictures_of_one_job_have_its_seed_and_their_place_or_each_its_own() -> None:
    alike = [a1111(text_of({"prompt": "[a]", "seed": "7"}, index, 2)) for index in range(2)]
    own = {"prompt": '["a cat", "a dog"]', "seed": "[7, 8]"}
    apart = [a1111(text_of(own, index, 2)) for index in range(2)]

    assert [(one["Prompt"], one["Seed"], one["Batch pos"]) for one in alike] == [("[a]", "7", "0"), ("[a]", "7", "1")]
    assert [(one["Prompt"], one["Seed"]) for one in apart] == [("a cat", "7"), ("a dog", "8")]
    assert a1111(text_of(own))["Seed"] == "[7, 8]"
    assert a1111(text_of({"seed": "[7, 8, 9]"}, 0, 2))["Seed"] == "[7, 8, 9]"


@settings(max_examples=300, deadline=None)
@given(prompt=TEXTS, value=TEXTS.filter(str.strip), key=TEXTS)
def test_whatever_is_said_the_seed_and_any_value_are_read_back(prompt: str, value: str, key: str) -> None:
    read = a1111(text_of({"prompt": prompt, key: "x", "seed": "5", "model": value, "num_inference_steps": "2"}))

    assert (read["Seed"], read["Steps"]) == ("5", "2")
    size = {"Model-1", "Model-2"} <= set(read)
    assert size or read["Model"] == value

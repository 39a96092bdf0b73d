"""Names of pictures: what a template gives, and that nothing leads out of its folder."""

import pytest

from vaefarm_producer import InvalidOption
from vaefarm_producer.naming import DEFAULT_TEMPLATE, NameTemplate

VALUES: dict[str, str | int] = {
    "folder": "cats/siamese",
    "stem": "one",
    "number": 7,
    "ext": "png",
    "vae": "sdxl",
    "height": 512,
    "width": 768,
    "seed": "42",
}

GOOD = [
    (DEFAULT_TEMPLATE, 1, ("cats/siamese/one.png",)),
    ("{stem}_{seed}.{ext}", 1, ("one_42.png",)),
    ("{number:05d}/{width}x{height}-{vae}.{ext}", 1, ("00007/768x512-sdxl.png",)),
    ("{stem}.{ext}", 2, ("one-0.png", "one-1.png")),
    ("{index}/{stem}.{ext}", 2, ("0/one.png", "1/one.png")),
    ("{{{stem}}}.{ext}", 1, ("{one}.png",)),
]


@pytest.mark.parametrize(("template", "count", "names"), GOOD)
def test_a_template_names_each_picture(template: str, count: int, names: tuple[str, ...]) -> None:
    assert NameTemplate(template).names(VALUES, count) == names


def test_a_file_that_was_given_by_itself_has_no_folder() -> None:
    assert NameTemplate(DEFAULT_TEMPLATE).names({**VALUES, "folder": "."}, 1) == ("one.png",)


@pytest.mark.parametrize(
    "template",
    ["/tmp/{stem}", "../{stem}", "a/../../{stem}", "{stem.__class__}", "{stem[0]}", "{}", "{0}", "{stem!r}", "{stem"],
)
def test_what_is_no_template_or_leads_out_of_the_folder_is_refused(template: str) -> None:
    with pytest.raises(InvalidOption, match="--name "):
        NameTemplate(template)


@pytest.mark.parametrize(
    ("template", "seed", "said"),
    [
        ("{seed}", "../../etc/passwd", "characters that no file name may have"),
        ("{seed}", "a/b", "characters that no file name may have"),
        ("{seed}", "a\\b", "characters that no file name may have"),
        ("{seed}", "a\x1b[2J", "characters that no file name may have"),
        ("{seed}", "..", "expected a path below --out"),
        ("{seed}{seed}/x", ".", "expected a path below --out"),
        ("{seed}", "", "expected a path below --out"),
        ("{seed}", "x" * 300, "more than 249 bytes"),
        ("{sead}", "1", "there is no 'sead'; expected folder, stem, "),
        ("{seed:05d}", "1", "seed='1'"),
    ],
)
def test_a_value_that_would_lead_elsewhere_is_refused(template: str, seed: str, said: str) -> None:
    with pytest.raises(InvalidOption) as refusal:
        NameTemplate(template).names({**VALUES, "seed": seed}, 1)

    assert said in str(refusal.value)

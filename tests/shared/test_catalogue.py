"""The catalogue: an operator's file adds entries and points built-in ones elsewhere; mistakes are named."""

from pathlib import Path

import pytest

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import ConfigurationError, UnknownVae
from vaefarm_shared.settings import Settings, masked


def load(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "catalogue.toml"
    path.write_text(text)
    return Catalogue.load(path)


def test_every_built_in_entry_has_a_contract_and_names_what_it_takes() -> None:
    entries = {entry.id: entry for entry in Catalogue.load()}

    assert {"demo", "sd-v1", "sdxl", "sd3", "flux", "flux2", "qwen-image", "sana", "taef1"} <= entries.keys()
    for entry in entries.values():
        assert entry.contract is not None
        assert entry.description
        assert entry.path or entry.revision == "main", "a branch is named, never left to a default"
    contracts = {vae: entry.contract for vae, entry in entries.items() if entry.contract}
    assert {vae for vae, one in contracts.items() if one.picture_channels == 4} == {"qwen-image-2-1"}
    assert {vae for vae, one in contracts.items() if one.binned} == {"sana", "pixart-alpha", "pixart-sigma"}
    assert contracts["flux2"].layouts == ("packed", "patchified", "spatial")


def test_factors_are_those_of_one_division_and_never_of_a_vae_with_vectors() -> None:
    known = {entry.id: (entry.scaling_factor, entry.shift_factor) for entry in Catalogue.load()}
    assert {vae: factors for vae, factors in known.items() if factors != (None, None)} == {
        **dict.fromkeys(("sd-v1", "pixart-alpha"), (0.18215, None)),
        **dict.fromkeys(("sdxl", "sdxl-original", "kolors", "pixart-sigma"), (0.13025, None)),
        "sd3": (1.5305, 0.0609),
        **dict.fromkeys(("flux", "z-image"), (0.3611, 0.1159)),
    }


def test_an_entry_pointed_elsewhere_forgets_what_was_of_its_repository(tmp_path: Path) -> None:
    catalogue = load(tmp_path, '[vaes.kolors]\npath = "/models/kolors"\n[vaes.flux2]\nsource = "me/mine"')

    assert (catalogue["kolors"].variant, catalogue["kolors"].revision) == (None, None)
    assert catalogue["kolors"].scaling_factor is None
    assert (catalogue["flux2"].origin, catalogue["flux2"].gated) == ("me/mine", False)
    assert catalogue["flux2"].contract is not None


def test_an_entry_pointed_at_a_folder_keeps_its_contract_and_forgets_its_repository(tmp_path: Path) -> None:
    entry = load(tmp_path, '[vaes.flux]\npath = "/models/flux"')["flux"]

    assert (entry.path, entry.source, entry.subfolder) == ("/models/flux", None, None)
    assert entry.contract is not None
    assert entry.contract.latent_channels == 16


def test_an_operators_entry_may_leave_its_contract_to_the_worker(tmp_path: Path) -> None:
    assert load(tmp_path, '[vaes.mine]\npath = "/models/mine"')["mine"].contract is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[vaes.mine", "no TOML"),
        ('[vaes.mine]\npath = "/m"\nshift_factor = 0.1', r"\[vaes.mine\]: shift_factor comes without scaling_factor"),
        ('[vaes.mine]\npath = "/m"\nscaling_factor = 0', "scaling_factor is 0"),
        ('[[vaes.mine.endpoints]]\nurl = "https://x"\nscaling_factor = 0', "endpoints.0: scaling_factor is 0"),
        ('[[vaes.mine.endpoints]]\nurl = "https://x"\nshift_factor = 1', "without scaling_factor"),
        (
            '[[vaes.mine.endpoints]]\nurl = "https://x"\nprotocol = "v1"\nscaling_factor = 1.0',
            "v1 has no word for scaling_factor",
        ),
        ("vaes = 3", "expected tables"),
        ('[vaes.mine]\npath = "/m"\nlatent_chanels = 4', "latent_chanels"),
        ('[vaes.mine]\npath = "/m"\ndtype = "int8"', "dtype"),
        ("[vaes.mine]\nlatent_channels = 4", "either `source` or `path`"),
        ('[vaes."a b"]\npath = "/m"', "id"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Catalogue.load(tmp_path / "none.toml")


def test_an_unknown_vae_names_those_there_are() -> None:
    with pytest.raises(
        UnknownVae,
        match=r"'sd-xl' is not known; expected one of auraflow, .*, demo, flux, .*, z-image, or an id of",
    ):
        _ = Catalogue.load()["sd-xl"]


def test_settings_name_the_variable_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEFARM_LEASE_SECONDS", "soon")

    with pytest.raises(ConfigurationError, match="VAEFARM_LEASE_SECONDS='soon'"):
        Settings.from_env()


def test_a_password_is_never_shown() -> None:
    settings = Settings.from_env(redis_url="redis://me:secret@host:1/0")

    assert "secret" not in repr(settings)
    assert masked("redis://me:secret@host:1/0") == "redis://me:***@host:1/0"
    assert masked("rediss://host?ssl_password=secret&db=1") == "rediss://host?ssl_password=***&db=1"

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
    with pytest.raises(UnknownVae, match=r"'sd-xl' is not known; expected one of demo, flux, sd-v1, sdxl, taesd"):
        _ = Catalogue.load()["sd-xl"]


def test_settings_name_the_variable_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEFARM_LEASE_SECONDS", "soon")

    with pytest.raises(ConfigurationError, match="VAEFARM_LEASE_SECONDS='soon'"):
        Settings.from_env()


def test_a_password_is_never_shown() -> None:
    settings = Settings.from_env(redis_url="redis://me:secret@host:1/0")

    assert "secret" not in repr(settings)
    assert masked("redis://me:secret@host:1/0") == "redis://me:***@host:1/0"

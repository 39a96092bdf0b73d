"""`--remote`: which endpoints it names, and what it refuses."""

from pathlib import Path

import pytest

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import ConfigurationError, UnknownVae
from vaefarm_worker.commands import chosen_entries
from vaefarm_worker.remote_option import TOKEN_ENV, remote_vaes

FARM = "https://farm.example/hf/sdxl"


def catalogue(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "catalogue.toml"
    path.write_text(text)
    return Catalogue.load(path)


def named(*options: str, allow_http: bool = False, catalogue: Catalogue | None = None) -> dict[str, list[str]]:
    found = remote_vaes(catalogue or Catalogue.load(), options, allow_http=allow_http)
    return {one.entry.id: [endpoint.url for endpoint in one.endpoints] for one in found}


def test_several_addresses_of_one_vae_are_several_endpoints() -> None:
    other = "https://other.example/"
    assert named(f"sdxl={FARM}", f"sdxl={other}", f"flux={other}") == {"sdxl": [FARM, other], "flux": [other]}


def test_a_variable_holds_several_and_addresses_may_hold_commas() -> None:
    assert named("sdxl=https://a.example/?x=1,2,flux=https://b.example/") == {
        "sdxl": ["https://a.example/?x=1,2"],
        "flux": ["https://b.example/"],
    }


def test_a_vae_alone_names_the_endpoints_of_the_catalogue(tmp_path: Path) -> None:
    own = catalogue(tmp_path, '[[vaes.sdxl.endpoints]]\nurl = "https://a.example/"\nconcurrency = 32\n')
    assert named("sdxl", catalogue=own) == {"sdxl": ["https://a.example/"]}
    assert named("sdxl", f"sdxl={FARM}", catalogue=own) == {"sdxl": ["https://a.example/", FARM]}


def test_endpoints_of_one_host_are_told_apart_and_the_same_is_asked_once() -> None:
    (found,) = remote_vaes(Catalogue.load(), [f"sdxl={FARM}", f"sdxl={FARM}", f"sdxl={FARM}/decode"])
    assert [one.shown_name for one in found.endpoints] == ["farm.example", "farm.example-2"]


def test_a_vae_may_have_endpoints_alone(tmp_path: Path) -> None:
    own = catalogue(
        tmp_path,
        '[vaes.mine]\nlatent_channels = 4\nspatial_scale = 8\n[[vaes.mine.endpoints]]\nurl = "https://a.example/"\n',
    )
    assert named("mine", catalogue=own) == {"mine": ["https://a.example/"]}


def test_a_vae_without_endpoints_in_the_catalogue_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"--remote sdxl: the catalogue has no endpoints of it; expected"):
        named("sdxl")


def test_an_unknown_vae_is_refused() -> None:
    with pytest.raises(UnknownVae, match="'nope'"):
        named("nope=https://a.example/")


@pytest.mark.parametrize("url", ["http://farm.example/hf/sdxl", "http://10.0.0.1/", "http://127.0.0.1.example/"])
def test_other_machines_are_asked_over_https_alone_unless_the_operator_says_so(url: str) -> None:
    with pytest.raises(ConfigurationError, match="unencrypted; expected https://, or http:// to this machine"):
        named(f"sdxl={url}")
    assert named(f"sdxl={url}", allow_http=True) == {"sdxl": [url]}


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/hf/sdxl", "http://localhost/", "http://[::1]:80/", FARM])
def test_this_machine_is_asked_over_http(url: str) -> None:
    assert named(f"sdxl={url}") == {"sdxl": [url]}


@pytest.mark.parametrize(
    "url",
    [
        *("", "farm.example", "ftp://farm.example", "https://", "http://h:99999/", "https://a b/"),
        *("https://u:hidden@/x", "https://u:hidden/more@h/", "https://u:hidden[@h/", "https://u:hidden\u2100@h/"),
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--remote sdxl=\.\.\.: .*expected") as caught:
        named(f"sdxl={url}")
    assert "hidden" not in str(caught.value)


def test_a_token_of_the_environment_is_named_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_ENV, "hf_secret")
    (found,) = remote_vaes(Catalogue.load(), [f"sdxl={FARM}"])
    assert found.endpoints[0].token_env == TOKEN_ENV
    assert "hf_secret" not in repr(found)


def test_a_worker_needs_a_vae_of_its_own_or_an_endpoint() -> None:
    assert chosen_entries(Catalogue.load(), None, [f"sdxl={FARM}"]) == []
    with pytest.raises(ConfigurationError, match="no VAE was named; expected --vaes .* or --remote"):
        chosen_entries(Catalogue.load(), None, None)

"""A mounted folder of weights: which VAE ids lie in it, and where."""

from pathlib import Path

import pytest

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import ConfigurationError
from vaefarm_worker.weights_folder import places_in


def put_config(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize(("vaes", "vae"), [(None, "vae"), ("", "vae"), ("sdxl", "sdxl"), (" flux ", "flux")])
@pytest.mark.parametrize("inside", ["", "vae"])
def test_a_folder_with_one_vae_is_that_of_the_id_that_was_named(
    tmp_path: Path, vaes: str | None, vae: str, inside: str
) -> None:
    place = put_config(tmp_path / inside)
    assert places_in(tmp_path, vaes) == {vae: place}


def test_a_pipelines_other_parts_are_no_vaes(tmp_path: Path) -> None:
    for part in ("unet", "text_encoder"):
        put_config(tmp_path / part)
    place = put_config(tmp_path / "vae")
    assert places_in(tmp_path, "sdxl") == {"sdxl": place}


def test_a_folder_of_folders_has_one_for_each_id_and_gives_those_that_were_named(tmp_path: Path) -> None:
    sdxl, mine = put_config(tmp_path / "sdxl"), put_config(tmp_path / "mine")
    (tmp_path / "other").mkdir()
    assert places_in(tmp_path, None) == {"mine": mine, "sdxl": sdxl}
    assert places_in(tmp_path, "sdxl,flux") == {"sdxl": sdxl}


@pytest.mark.parametrize(
    ("made", "vaes", "says"),
    [(None, None, "is no folder"), ("", "sdxl,flux", "holds one VAE, and --vaes names 2"), ("a/b", None, "no VAE")],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, made: str | None, vaes: str | None, says: str) -> None:
    folder = tmp_path / "weights"
    if made is not None:
        put_config(folder / made)
    with pytest.raises(ConfigurationError, match=says):
        places_in(folder, vaes)


def test_a_mounted_folder_takes_the_place_of_the_whole_repository(tmp_path: Path) -> None:
    catalogue = Catalogue.load(None, {"sdxl": "/weights/sdxl", "mine": "/weights/mine"})
    built_in = Catalogue.load()["sdxl"]
    assert (catalogue["sdxl"].path, catalogue["sdxl"].source, catalogue["sdxl"].subfolder) == (
        "/weights/sdxl",
        None,
        None,
    )
    assert catalogue["sdxl"].contract == built_in.contract
    assert catalogue["mine"].path == "/weights/mine"

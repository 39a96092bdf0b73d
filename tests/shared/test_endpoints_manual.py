"""What docs/remote_endpoints.md says of the catalogue is what the catalogue takes."""

import re
import tomllib
from pathlib import Path

from pydantic_core import PydanticUndefined

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.endpoints import EndpointEntry

MANUAL = (Path(__file__).parents[2] / "docs" / "remote_endpoints.md").read_text()


def test_the_manual_names_every_field_of_an_endpoint_with_its_default() -> None:
    table = MANUAL.partition("| field | default |")[2].partition("\n\n")[0]
    told: dict[str, object] = {}
    for fields, default in re.findall(r"^\| (`.*?`) \| (?:`(.*?)`)? ?\|", table, re.MULTILINE):
        value = tomllib.loads(f"value = {default}")["value"] if default else None
        told |= dict.fromkeys(re.findall(r"`(\w+)`", fields), value)

    defaults = {name: field.default for name, field in EndpointEntry.model_fields.items()}
    assert told == {name: None if value is PydanticUndefined else value for name, value in defaults.items()}


def test_the_manuals_catalogue_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", MANUAL, re.DOTALL)
    file = tmp_path / "catalogue.toml"
    file.write_text(example)
    first, second = Catalogue.load(file)["sdxl"].endpoints
    assert (first.shown_name, first.token_env, first.concurrency) == ("farm-b", "FARM_B_KEY", 32)
    assert second.hedge
    assert first.is_safe
    assert second.is_safe


def test_the_manuals_public_endpoints_are_of_vaes_that_the_catalogue_has() -> None:
    found = re.findall(r"`([\w-]+)=(https://\S+huggingface\.cloud/)`", MANUAL)
    assert [vae for vae, _ in found] == ["sd-v1", "sdxl", "flux"]
    assert all(Catalogue.load()[vae].contract is not None for vae, _ in found)
    assert all(EndpointEntry(url=url).is_safe for _, url in found)

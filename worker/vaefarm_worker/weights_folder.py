"""A folder of weights that an operator has mounted: one VAE, a pipeline with one, or a folder for each VAE id."""

from pathlib import Path
from typing import Final

from vaefarm_shared.errors import ConfigurationError

from .option_lists import split_names
from .sources import CONFIG

#: The id of a folder's one VAE where nobody named it.
UNNAMED: Final[str] = "vae"

#: Where pipelines have their VAE.
IN_PIPELINES: Final[str] = "vae"


def places_in(folder: Path, vaes: str | None) -> dict[str, str]:
    """The folder of each VAE that lies in `folder`, by id.

    A folder that is a VAE's, or a pipeline's, is that of the one id of `vaes`, or of `vae`; any other has a folder for
    each id, of which those in `vaes` are taken, all unless given.

    Raises:
        ConfigurationError: there is no such folder, it holds no VAE, or several ids are to be served by one VAE.
    """
    ids = split_names(vaes)
    if not folder.is_dir():
        raise ConfigurationError(f"--weights {folder} is no folder; expected one that save_pretrained wrote")
    one = next((place for place in (folder / IN_PIPELINES, folder) if (place / CONFIG).is_file()), None)
    if one is not None:
        if len(ids) > 1:
            raise ConfigurationError(
                f"--weights {folder} holds one VAE, and --vaes names {len(ids)}; expected one id, or a folder for each"
            )
        return {ids[0] if ids else UNNAMED: str(one)}
    found = {place.parent.name: str(place.parent) for place in sorted(folder.glob(f"*/{CONFIG}"))}
    if not found:
        raise ConfigurationError(
            f"--weights {folder} holds no VAE; expected {CONFIG} with its weights in it, in its {IN_PIPELINES}/, or in"
            " folders named by VAE ids"
        )
    return {vae: place for vae, place in found.items() if not ids or vae in ids}

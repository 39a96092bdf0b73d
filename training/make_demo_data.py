"""Make the demo's data from its weights: twelve photographs, their latents and the list of licences.

    python make_demo_data.py demo

reads demo/vae, writes demo/photographs/NAME.webp (lossless RGB), demo/latents/NAME.safetensors and
demo/LICENCES.md, and prints a table of how closely each latent decodes to its photograph.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_model import Autoencoder, load_model
from demo_pictures import SOURCES, Source, open_source, picture_to_tensor, psnr, tensor_to_picture
from PIL import Image
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Photograph:
    """One shipped photograph: a box (left, top, right, bottom) of a source, scaled to (width, height)."""

    name: str
    source: str
    box: tuple[int, int, int, int]
    size: tuple[int, int]


# Boxes have their size's aspect ratio within one per cent; sizes are multiples of 16, at most 256.
PHOTOGRAPHS = (
    Photograph("cat", "chelsea", (0, 9, 451, 291), (256, 160)),
    Photograph("cat_portrait", "chelsea", (40, 0, 340, 300), (192, 192)),
    Photograph("pagoda", "china", (0, 27, 640, 427), (256, 160)),
    Photograph("pagoda_roofs", "china", (70, 20, 370, 420), (192, 256)),
    Photograph("astronaut", "astronaut", (0, 0, 512, 512), (256, 256)),
    Photograph("astronaut_portrait", "astronaut", (110, 0, 340, 230), (192, 192)),
    Photograph("coffee", "coffee", (0, 12, 600, 387), (256, 160)),
    Photograph("flower", "flower", (0, 0, 640, 400), (256, 160)),
    Photograph("grace_hopper", "grace_hopper", (32, 0, 482, 600), (192, 256)),
    Photograph("rocket", "rocket", (0, 27, 640, 427), (256, 160)),
    Photograph("photographer", "camera", (0, 0, 512, 512), (192, 192)),
    Photograph("retina", "retina", (0, 0, 1411, 1411), (192, 192)),
)


def source_of(photograph: Photograph) -> Source:
    """Find the source that a photograph was cut from."""
    return next(source for source in SOURCES if source.name == photograph.source)


def cut(photograph: Photograph) -> Image.Image:
    """Cut and scale a photograph out of its source, RGB."""
    picture = open_source(source_of(photograph))
    return picture.resize(photograph.size, Image.Resampling.LANCZOS, box=photograph.box)


@torch.no_grad()
def encode(model: Autoencoder, picture: Image.Image) -> torch.Tensor:
    """Give normalised latents (1, 4, h/8, w/8) float16, what pipelines return for output_type="latent".

    The posterior's mode times the scaling factor: Rombach et al., 2022, and StableDiffusionPipeline.
    """
    latents: torch.Tensor = model.encode(picture_to_tensor(picture)).latent_dist.mode()
    return latents.mul(model.config.scaling_factor).half()


@torch.no_grad()
def decode(model: Autoencoder, latents: torch.Tensor) -> Image.Image:
    """Turn normalised latents (1, 4, h/8, w/8) back into an RGB picture, in float32."""
    return tensor_to_picture(model.decode(latents.float() / model.config.scaling_factor).sample)


def write_photograph(folder: Path, model: Autoencoder, photograph: Photograph) -> str:
    """Write one photograph and its latents, read both back and give its row of the table."""
    picture_path = folder / "photographs" / f"{photograph.name}.webp"
    latents_path = folder / "latents" / f"{photograph.name}.safetensors"
    picture = cut(photograph)
    picture.save(picture_path, lossless=True, quality=100, method=6)
    save_file({"latents": encode(model, picture).contiguous()}, latents_path)
    with Image.open(picture_path) as original:
        decibels = psnr(original.convert("RGB"), decode(model, load_file(latents_path)["latents"]))
    held_out = "yes" if source_of(photograph).held_out else ""
    width, height = photograph.size
    return f"| {photograph.name} | {width} x {height} | {held_out} | {decibels:.1f} |"


def licence_row(source: Source) -> str:
    """Give a source's row of the table of licences."""
    shipped = ", ".join(photograph.name for photograph in PHOTOGRAPHS if photograph.source == source.name)
    use = "held out" if source.held_out else "training"
    link = f"[{source.author}]({source.link})"
    return f"| {source.file} | {source.package} | {source.licence} | {link} | {use} | {shipped} |"


def write_licences(folder: Path) -> None:
    """Write the table of every picture that was trained on or is shipped."""
    rows = "\n".join(licence_row(source) for source in SOURCES)
    (folder / "LICENCES.md").write_text(LICENCES_TEXT.format(rows=rows), encoding="utf-8")


LICENCES_TEXT = """\
# Licences of the pictures

The demo VAE learned from the pictures marked "training"; those marked "held out" only measure it. The last
column names the photographs in `photographs/` (and the latents in `latents/`) that were made from each
picture: cropped, scaled down and stored as lossless WebP. Beside these, training used pictures that
`demo_pictures.py` draws itself.

| file | in package | licence | author and source | use | shipped as |
|---|---|---|---|---|---|
{rows}

Licence texts: [CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/),
[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/).

Where each licence is stated: for skimage, the docstrings of `skimage.data` (`skimage/data/_fetchers.py`);
for sklearn, `sklearn/datasets/images/README.txt`, whose text credits both pictures to danielbuechele while
its link for flower.jpg leads to vultilion's photographs; for matplotlib, the comment in grace_hopper.jpg,
which names the Wikimedia page (a work of the United States Navy, hence in the public domain there).
rocket.jpg is the photograph that SpaceX released into the public domain in March 2015; its Flickr page has
since shown a non-commercial licence, which scikit-image discusses in
[issue 5095](https://github.com/scikit-image/scikit-image/issues/5095).
"""


def main() -> None:
    """Make the data in the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the demo's folder, which holds vae/")
    folder: Path = parser.parse_args().folder
    model = load_model(folder / "vae")
    for part in ("photographs", "latents"):
        (folder / part).mkdir(exist_ok=True)
    write_licences(folder)
    print("| photograph | size | held out | PSNR, dB |\n|---|---|---|---|")
    for photograph in PHOTOGRAPHS:
        print(write_photograph(folder, model, photograph))


if __name__ == "__main__":
    main()

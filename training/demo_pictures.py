"""The pictures the demo VAE learns from: their licences, the drawn ones beside them, and random crops of all.

Every photograph ships inside a Python package (scikit-image, scikit-learn, matplotlib), so nothing is
downloaded. Only pictures in the public domain, under CC0 or under CC BY are used. Left out because their
packages name no such licence: scikit-image's coins, color, ihc, logo, moon, motorcycle and page.
The licences are those of scikit-image's docstrings (skimage/data/_fetchers.py), of scikit-learn's
datasets/images/README.txt and, for grace_hopper.jpg, of the Wikimedia page that the file's comment names.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

PICTURE_FOLDERS = {
    "skimage": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}
# Each picture is cropped at several scales, down to the size at which a small crop still fits.
PYRAMID_SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
SMALLEST_LEVEL = 72
DRAWN_PICTURES = 48
DRAWN_WEIGHT = 0.05
DRAWN_SIZE = 256


@dataclass(frozen=True)
class Source:
    """One packaged picture: its file, licence, author and how often training draws it (0: held out)."""

    file: str
    package: str
    licence: str
    author: str
    link: str
    weight: float

    @property
    def name(self) -> str:
        """Give the file name without its suffix."""
        return Path(self.file).stem

    @property
    def held_out(self) -> bool:
        """Tell whether training never sees this picture."""
        return self.weight == 0


SKIMAGE_DOCS = "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data."
FLICKR = "https://www.flickr.com/photos/"
COMMONS = "https://commons.wikimedia.org/wiki/File:"

SOURCES = (
    Source("chelsea.png", "skimage", "CC0 1.0", "Stéfan van der Walt", SKIMAGE_DOCS + "chelsea", 0),
    Source("china.jpg", "sklearn", "CC BY 2.0", "danielbuechele", FLICKR + "danielbuechele/6061409035/", 0),
    Source("astronaut.png", "skimage", "public domain", "NASA", "https://flic.kr/p/r9qvLn", 1.0),
    Source("coffee.png", "skimage", "CC0 1.0", "Rachel Michetti", SKIMAGE_DOCS + "coffee", 1.0),
    Source("flower.jpg", "sklearn", "CC BY 2.0", "vultilion", FLICKR + "vultilion/6056698931/", 1.0),
    Source("grace_hopper.jpg", "matplotlib", "public domain", "US Navy", COMMONS + "Grace_Hopper.jpg", 1.0),
    Source("rocket.jpg", "skimage", "public domain", "SpaceX", FLICKR + "spacexphotos/16511594820/", 1.0),
    Source(
        "retina.jpg",
        "skimage",
        "CC0 1.0",
        "Mikael Häggström",
        COMMONS + "Fundus_photograph_of_normal_left_eye.jpg",
        0.6,
    ),
    Source("camera.png", "skimage", "CC0 1.0", "Lav Varshney", SKIMAGE_DOCS + "camera", 0.6),
    Source(
        "hubble_deep_field.jpg",
        "skimage",
        "public domain",
        "NASA, ESA",
        "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/",
        0.5,
    ),
    Source("brick.png", "skimage", "CC0 1.0", "CC0Textures (Bricks25)", SKIMAGE_DOCS + "brick", 0.4),
    Source("grass.png", "skimage", "CC0 1.0", "linolafett", SKIMAGE_DOCS + "grass", 0.4),
    Source("gravel.png", "skimage", "CC0 1.0", "CC0Textures (Gravel04)", SKIMAGE_DOCS + "gravel", 0.4),
    Source("clock_motion.png", "skimage", "public domain", "Stéfan van der Walt", SKIMAGE_DOCS + "clock", 0.3),
    Source(
        "text.png",
        "skimage",
        "public domain",
        "Wikipedia",
        "https://en.wikipedia.org/wiki/File:Corner.png",
        0.2,
    ),
)


def open_source(source: Source) -> Image.Image:
    """Open a packaged picture as RGB at its full size."""
    spec = importlib.util.find_spec(source.package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{source.file} ships inside the package {source.package}: install it")
    path = Path(spec.origin).parent / PICTURE_FOLDERS[source.package] / source.file
    with Image.open(path) as picture:
        return picture.convert("RGB")


def held_out_pictures() -> dict[str, Image.Image]:
    """Open the pictures that training never sees, by name."""
    return {source.name: open_source(source) for source in SOURCES if source.held_out}


def picture_to_tensor(picture: Image.Image) -> torch.Tensor:
    """Turn an RGB picture into a float32 tensor (1, 3, h, w) in [-1, 1], sides cut to multiples of 16."""
    width, height = picture.width // 16 * 16, picture.height // 16 * 16
    pixels = np.asarray(picture.crop((0, 0, width, height)), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]


def tensor_to_picture(tensor: torch.Tensor) -> Image.Image:
    """Turn a tensor (1, 3, h, w) in [-1, 1], clamped to it, into an RGB picture."""
    pixels = ((tensor[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def psnr(picture: Image.Image, other: Image.Image) -> float:
    """Give the peak signal-to-noise ratio in dB of two RGB pictures of one size, peak 255."""
    difference = np.asarray(picture, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return 10 * math.log10(255**2 / float(np.mean(difference**2)))


def draw_gradient(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw a linear gradient between two random colours at a random angle."""
    first, second = rng.integers(0, 256, (2, 3)).astype(np.float64)
    angle = rng.uniform(0, math.pi)
    ramp = np.linspace(0, 1, size)
    mix = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
    mix = (mix - mix.min()) / np.ptp(mix)
    return Image.fromarray((first + (second - first) * mix[..., None]).astype(np.uint8))


def draw_picture(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw discs, boxes, lines and words over a gradient: the edges and colours that photographs lack."""
    picture = draw_gradient(rng, size)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(5, 61)):
        red, green, blue = rng.integers(0, 256, 3).tolist()
        fill = (red, green, blue)
        x, y, end_x, end_y = rng.integers(0, size + 1, 4).tolist()
        # Squaring favours small shapes, as in "dead leaves" models of natural pictures
        # (Lee, Mumford and Huang, 2001: sizes follow a power law).
        radius = int(0.4 * size * rng.random() ** 2) + 2
        shape = rng.integers(0, 4)
        if shape == 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        elif shape == 1:
            draw.rectangle((x - radius, y - radius // 2, x + radius, y + radius // 2), fill=fill)
        elif shape == 2:
            draw.line((x, y, end_x, end_y), fill=fill, width=int(rng.integers(1, 7)))
        else:
            draw.text((x, y), f"latent {rng.integers(0, 1000)}", fill=fill)
    return picture


def pyramid(picture: Image.Image) -> list[NDArray[np.uint8]]:
    """Give a picture at several scales, each (h, w, 3) uint8, leaving out levels too small to crop."""
    levels = []
    for scale in PYRAMID_SCALES:
        width, height = int(picture.width * scale), int(picture.height * scale)
        if min(width, height) >= SMALLEST_LEVEL:
            levels.append(np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)))
    return levels


def augment(crop: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Mirror, turn, re-colour and re-light a crop (n, n, 3) in [-1, 1], each with its own chance."""
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.15:
        crop = crop.transpose(1, 0, 2)
    if rng.random() < 0.15:
        crop = crop[..., rng.permutation(3)]
    if rng.random() < 0.5:
        shift = rng.uniform(-0.2, 0.2, 3).astype(np.float32)
        crop = np.clip(crop * np.float32(rng.uniform(0.7, 1.15)) + shift, -1, 1)
    return crop


def tint(crop: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Map the greys of a crop (n, n, 3) in [-1, 1] onto the line between two random colours."""
    dark, light = rng.uniform(-1, 0.2, 3), rng.uniform(-0.2, 1, 3)
    return (dark + (light - dark) * (crop + 1) / 2).astype(np.float32)


class CropSampler:
    """Draws random augmented square crops of the packaged and the drawn pictures."""

    def __init__(self, seed: int) -> None:
        """Load every training picture and draw the others, all from one seed."""
        self.rng = np.random.default_rng(seed)
        sources = [source for source in SOURCES if not source.held_out]
        self.pyramids = [pyramid(open_source(source)) for source in sources]
        self.pyramids += [[np.asarray(draw_picture(self.rng, DRAWN_SIZE))] for _ in range(DRAWN_PICTURES)]
        weights = np.array([source.weight for source in sources] + [DRAWN_WEIGHT] * DRAWN_PICTURES)
        self.chances = weights / weights.sum()
        self.grey = [bool(np.ptp(levels[0], axis=2).max() == 0) for levels in self.pyramids]

    def crop(self, size: int) -> NDArray[np.float32]:
        """Draw one crop (3, size, size) in [-1, 1]."""
        levels: list[NDArray[np.uint8]] = []
        while not levels:  # a small picture has no level that holds a large crop
            index = int(self.rng.choice(len(self.pyramids), p=self.chances))
            levels = [level for level in self.pyramids[index] if min(level.shape[:2]) >= size]
        level = levels[self.rng.integers(len(levels))]
        y = self.rng.integers(level.shape[0] - size + 1)
        x = self.rng.integers(level.shape[1] - size + 1)
        crop = level[y : y + size, x : x + size].astype(np.float32) / 127.5 - 1
        # Half of the textures' crops are tinted, since most of them are grey and photographs are not.
        if self.grey[index] and self.rng.random() < 0.5:
            crop = tint(crop, self.rng)
        return np.ascontiguousarray(augment(crop, self.rng).transpose(2, 0, 1))

    def batch(self, count: int, size: int) -> torch.Tensor:
        """Draw a float32 batch (count, 3, size, size) in [-1, 1], channels last in memory."""
        crops = np.stack([self.crop(size) for _ in range(count)])
        return torch.from_numpy(crops).to(memory_format=torch.channels_last)

"""Which images, and as which squares an autoencoder gets them: options of jobs/encode.py and jobs/normaliser.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.encoder import Decoder
from marval_ray.embedded import assets_index
from marval_ray.families.base import CodecSizes
from marval_ray.files.find_images import find_images
from marval_ray.files.image_set import ImageSet
from marval_ray.files.image_tables import LABEL_COLUMNS, PROMPT_COLUMNS, Columns


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    images: Path
    """Parquet (a file, or a folder of parts) with a column of images (a PNG, JPEG, ... file's bytes, or what Hugging
    Face's `datasets` writes) and one of labels; a data set that `datasets` saved by `save_to_disk`, or its splits;
    tar files as WebDataset has them (a file, or a folder), members NAME.jpg beside NAME.cls or a NAME.json with a `label`;
    or a folder with a subfolder of image files for each class, labelled 0, 1, ... in alphabetical order."""
    vae: Path = assets_index.VAE
    """Autoencoder: a diffusers folder, KL-16 as published (kl16.ckpt), or DC-HT's folder, for images with prompts."""
    size: int | None = None
    """Pixels a side given to the autoencoder; by default its own: 32 for the embedded one, 256 for KL-16."""
    fit: Literal["pad", "crop"] | None = None
    """Make images square by black borders, or by scaling and cutting out the centre; by default `pad` for a grey
    autoencoder and `crop` for a colour one."""
    split: str = "train"
    """Which files to take of a folder of Parquet or tar files whose names tell splits, such as test-00000-of-00002.parquet."""
    image_column: str | None = None
    """Column of the images in Parquet; by default `image`, `img`, ..., or the only one that `datasets` takes for images."""
    label_column: str | None = None
    """Column of the labels, whole numbers from 0 or text; by default `label`, `labels`, ..., or with DC-HT of prompts, `prompt`, ..."""

    def find(self, skip_bad: bool, prompts: bool = False) -> ImageSet:
        """List the images. prompts: what they show is texts, each of which is a class of its own here.

        Raises ValueError as `find_images` does, and when there are numbers in the place of texts.
        """
        columns = Columns(self.image_column, self.label_column, PROMPT_COLUMNS if prompts else LABEL_COLUMNS)
        images = find_images(self.images.absolute(), columns, self.split, skip_bad)
        if prompts and images.names is None:
            raise ValueError(f"{self.images} has numbers where {self.vae} needs prompts: name the column of the prompts by --label-column")
        return images

    def decoder(self, c: CodecSizes) -> Decoder:
        """Return what a codec needs of its images. Raises ValueError when the size is not a multiple of its stride."""
        size = self.size or c.image_size
        if size is None:
            raise ValueError(f"{self.vae} does not say for which pixels it is: give --size")
        if size % c.stride:
            raise ValueError(f"--size {size} is not a multiple of {c.stride}, the pixels of {self.vae} a latent")
        return Decoder(size, c.image_channels, self.fit or ("pad" if c.image_channels == 1 else "crop"))

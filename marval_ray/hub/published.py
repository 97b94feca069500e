"""What others publish and this project reads: where each file comes from, how large it is, under which licence, what it is for.

Sizes are those that the sources state, rounded; nobody has fetched these files for this table.
"""

from dataclasses import dataclass

DROPBOX = "https://www.dropbox.com/scl/fi"
MAR_MIRROR = "converted and uploaded by jadechoghari on the Hub, not by MAR's authors"
MB, GB = 10**6, 10**9


@dataclass(frozen=True)
class File:
    """One file.

    source: an address, or hub:OWNER/NAME/FILE. size: bytes, about. sha256, git_blob: of its content. All three where somebody states it.
    """

    name: str
    source: str
    size: int | None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def on_hub(self) -> tuple[str, str] | None:
        """Repository and file on the Hub."""
        if not self.source.startswith("hub:"):
            return None
        owner, repository, file = self.source.removeprefix("hub:").split("/", 2)
        return f"{owner}/{repository}", file

    @property
    def page(self) -> str:
        """Return where a person finds it with a browser."""
        return "https://huggingface.co/{}/blob/main/{}".format(*self.on_hub) if self.on_hub else self.source


@dataclass(frozen=True)
class Published:
    """Files that belong together."""

    files: tuple[File, ...]
    licence: str
    purpose: str
    note: str = ""

    @property
    def size(self) -> int | None:
        """Bytes in all, None where nobody states them."""
        return None if any(file.size is None for file in self.files) else sum(file.size or 0 for file in self.files)


def _one(name: str, source: str, size: float, licence: str, purpose: str, note: str = "", **sums: str) -> Published:
    return Published((File(name, source, int(size), **sums),), licence, purpose, note)


def _mar(size: str, key: str, megabytes: int) -> Published:
    source = f"{DROPBOX}/{key}&dl=1"
    return _one("checkpoint-last.pth", source, megabytes * MB, "MIT", f"--teacher of --preset mar-{size}", "the authors' own hosting")


def _mirror(size: str, file: str, gigabytes: float) -> Published:
    return _one(file, f"hub:jadechoghari/mar/{file}", gigabytes * GB, "MIT", f"--teacher of --preset mar-{size}", MAR_MIRROR)


def _detok(file: str, gigabytes: float, purpose: str) -> Published:
    return _one(file, f"hub:jjiaweiyang/l-DeTok/{file}", gigabytes * GB, "MIT", purpose)


def _dcar(repository: str, names: tuple[str, ...], purpose: str) -> Published:
    files = tuple(File(name, f"hub:mit-han-lab/{repository}/{name}", None) for name in names)
    return Published(files, "NVIDIA, non-commercial", purpose, "for research or evaluation, what is made of it too")


PUBLISHED: dict[str, Published] = {
    "mar-b": _mar("b", "f6dpuyjb7fudzxcyhvrhk/checkpoint-last.pth?rlkey=a6i4bo71vhfo4anp33n9ukujb", 1_664),
    "mar-l": _mar("l", "pxacc5b2mrt3ifw4cah6k/checkpoint-last.pth?rlkey=m48ovo6g7ivcbosrbdaz0ehqt", 3_827),
    "mar-h": _mar("h", "1qmfx6fpy3k7j9vcjjs3s/checkpoint-last.pth?rlkey=4lae281yzxb406atp32vzc83o", 7_540),
    "mar-b-mirror": _mirror("b", "mar-base.safetensors", 0.832),
    "mar-l-mirror": _mirror("l", "mar-large.safetensors", 1.91),
    "mar-h-mirror": _mirror("h", "mar-huge.safetensors", 3.77),
    "kl16": _one(
        "kl16.ckpt", f"{DROPBOX}/hhmuvaiacrarfg28qxhwz/kl16.ckpt?rlkey=l44xipsezc8atcffdp4q7mwmh&dl=1", 266 * MB, "MIT",
        "--vae of the mar presets", "the authors' own hosting",
    ),
    "kl16-mirror": _one(
        "kl16.safetensors", "hub:jadechoghari/mar/kl16.safetensors", 266 * MB, "MIT", "--vae of the mar presets", MAR_MIRROR
    ),
    "detok-b": _detok("mar_base.pth", 1.7, "--teacher of --preset detok-b"),
    "detok-l": _detok("mar_large.pth", 3.8, "--teacher of --preset detok-l"),
    "detok": Published(
        (
            File(
                "detok-BB-gamm3.0-m0.7-decoder_tuned.pth",
                "hub:jjiaweiyang/l-DeTok/detok-BB-gamm3.0-m0.7-decoder_tuned.pth", int(1.4 * GB),
            ),
            File("stats.pkl", "hub:jjiaweiyang/l-DeTok/stats.pkl", 10_000),
        ),
        "MIT", "tokenizer of the detok presets: jobs/detok_codec.py makes their --vae of it",
    ),
    "dc-ar-512": _dcar("dc-ar-512", ("pytorch_model.bin",), "--teacher of --preset dc-ar-512"),
    "dc-ht": _dcar("dc-ht", ("config.json", "model.safetensors"), "--vae of --preset dc-ar-512"),
    "t5-base": Published(
        tuple(
            File(name, f"hub:google-t5/t5-base/{name}", size)
            for name, size in (("config.json", 1_210), ("model.safetensors", 892 * MB), ("tokenizer.json", 1_390_000))
        ),
        "Apache-2.0", "--texts of --preset dc-ar-512", "sizes are those of a copy",
    ),
    "pickscore": Published(
        (
            File("config.json", "hub:yuvalkirstain/PickScore_v1/config.json", 4_800),
            File("model.safetensors", "hub:yuvalkirstain/PickScore_v1/model.safetensors", int(3.94 * GB)),
            *(
                File(name, f"hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K/{name}", size)
                for name, size in (
                    ("preprocessor_config.json", 520), ("tokenizer.json", 2_224_000), ("tokenizer_config.json", 900),
                    ("vocab.json", 862_000), ("merges.txt", 525_000), ("special_tokens_map.json", 400),
                )
            ),
        ),
        "see the model's card", "--rl.rewards pickscore:FOLDER", "its processor is CLIP-H's, which its authors use",
    ),
    "hpsv2": _one(
        "HPS_v2.1_compressed.pt", "hub:xswu/HPSv2/HPS_v2.1_compressed.pt", 1.97 * GB, "Apache-2.0", "--rl.rewards hpsv2:FILE"
    ),
    "image-reward": Published(
        (
            File("ImageReward.pt", "hub:THUDM/ImageReward/ImageReward.pt", int(1.79 * GB)),
            File("vocab.txt", "hub:google-bert/bert-base-uncased/vocab.txt", 231_508),
        ),
        "Apache-2.0", "--rl.rewards image_reward:FOLDER",
    ),
    "clip": Published(
        tuple(
            File(name, f"hub:openai/clip-vit-large-patch14/{name}", size)
            for name, size in (
                ("config.json", 4_500), ("model.safetensors", int(1.71 * GB)), ("preprocessor_config.json", 316),
                ("tokenizer.json", 2_224_000), ("tokenizer_config.json", 900), ("vocab.json", 961_000), ("merges.txt", 525_000),
                ("special_tokens_map.json", 400),
            )
        ),
        "see the model's card", "--rl.rewards clip:FOLDER",
    ),
    "inception": _one(
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth", 95.6 * MB,
        "Apache-2.0", "features of FID, sFID, IS, precision and recall",
    ),
    "adm-statistics": _one(
        "adm_in256_stats.npz", "https://github.com/LTH14/mar/raw/main/fid_stats/adm_in256_stats.npz", 33.6 * MB, "MIT",
        "mean and covariance of ImageNet at 256 x 256", git_blob="1da4c17607fe959d54999fd098105649a0c05e15",
    ),
    "adm-reference": _one(
        "VIRTUAL_imagenet256_labeled.npz",
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz", 2 * GB,
        "MIT", "10,000 images of ImageNet for precision and recall, statistics for FID and sFID",
    ),
}  # fmt: skip

"""Putting a model's folder on the Hugging Face Hub, through its own library."""

from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

HUB = "hub:"


def upload(folder: Path, name: str, hub: str | None, private: bool) -> str:
    """Put `folder` into the repository OWNER/NAME, made if it is not there, as one commit; return its address.

    The token is that of `hf auth login`, or of HF_TOKEN. hub: another address of the Hub. Raises ValueError when it refuses.
    """
    api = HfApi(endpoint=hub)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of marval_ray").commit_url)
    except (HTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        cure = "`hf auth login` takes a token that may write there"
        raise ValueError(f"{name} cannot be put on the Hub ({reason:.300}): {cure}") from error

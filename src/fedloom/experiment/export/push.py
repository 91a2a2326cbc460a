"""Upload of an exported folder to the Hugging Face hub, by the user's own token."""

import re
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_push(repo: str) -> None:
    """Raise ExperimentError for a name that is no ORG/NAME, and where there is no token; nothing is sent."""
    from huggingface_hub import get_token

    if not _NAME.fullmatch(repo):
        raise ExperimentError(f"--push: {repo!r} is no name on the hub; give it as ORG/NAME")
    if not get_token():
        raise ExperimentError(
            "--push: there is no Hugging Face token on this machine; `hf auth login` stores one, or set HF_TOKEN"
        )


def push(folder: Path, repo: str, *, public: bool = False) -> str:
    """Upload `folder` as the model `repo`, created if need be and private unless `public`; returns its address.

    Raises ExperimentError where the hub refuses, and for an existing public model without `public`.
    """
    from huggingface_hub import HfApi

    api: Any = HfApi()
    try:
        address = api.create_repo(repo, repo_type="model", private=not public, exist_ok=True)
        if not public and not api.model_info(repo).private:
            raise ExperimentError(
                f"--push: {repo} exists and is public; give --public, or another name. The model stands in {folder}"
            )
        api.upload_folder(
            repo_id=repo, repo_type="model", folder_path=folder, commit_message="Model exported by fedloom"
        )
    except ExperimentError:
        raise
    except Exception as error:  # the hub's client raises errors of its own and of two HTTP libraries
        raise ExperimentError(
            f"--push: {repo} was not uploaded: {reason(error)}. The model stands in {folder}"
        ) from error
    return str(address)

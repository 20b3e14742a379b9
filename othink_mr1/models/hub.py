"""Models of the Hugging Face hub, and the record of which one a folder is."""

import json
from pathlib import Path

from othink_mr1.errors import UserError
from othink_mr1.models.folder import read_json

# In the folder of a base model that was fetched: its name on the hub and the commit.
ORIGIN = "origin.json"


def fetch(name: str, revision: str | None, what: str) -> Path:
    """A model of the hub, from the local cache or the network; the folder has the name of its commit.

    Args:
        what: for whom it is fetched, at the head of a message.

    Raises:
        UserError: it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        at = f" at {revision}" if revision else ""
        raise UserError(f"{what}: {name!r}{at} cannot be fetched ({reason}); is the network there?") from error


def record_origin(folder: Path, name: str, commit: str) -> None:
    """Note in a model's folder which model of the hub it is."""
    (folder / ORIGIN).write_text(json.dumps({"name": name, "revision": commit}, indent=1) + "\n", encoding="utf-8")


def origin(folder: Path) -> dict[str, str]:
    """`name` and `revision` of a model that came from the hub; nothing for any other."""
    return read_json(folder / ORIGIN) if (folder / ORIGIN).is_file() else {}

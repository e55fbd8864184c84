"""Where the project keeps what it fetched or prepared and can make again."""

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """A folder below the project's cache, made if it is not there.

    JAXMOE_CACHE names the cache; without it, it is `jaxmoe` in XDG_CACHE_HOME, which is ~/.cache by default.

    Args:
      parts: folders below it, such as "data".
    Returns: the folder.
    Raises: OSError if it cannot be made.

    >>> import os, tempfile
    >>> os.environ["JAXMOE_CACHE"] = tempfile.mkdtemp()
    >>> cache_folder("models").name
    'models'
    """
    root = os.environ.get("JAXMOE_CACHE")
    if not root:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxmoe"
    folder = Path(root).expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder

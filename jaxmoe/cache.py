"""Where the project keeps files that it fetched or prepared and can make again."""

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """A folder below the project's cache, created if it does not exist.

    JAXMOE_CACHE names the cache; without it, the cache is `jaxmoe` in XDG_CACHE_HOME, by default ~/.cache.

    Args:
      parts: folders below it, such as "data".
    Returns: the folder.
    Raises: OSError if it cannot be created.

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

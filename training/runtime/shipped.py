"""The configs that come with the package, found by short name: `sft/tiny` is configs/sft/tiny.yaml.

In a checkout they are next to the package, in an installed package inside it.
"""

import difflib
from pathlib import Path


def folder() -> Path:
    """Where the shipped configs are."""
    here = Path(__file__).resolve()
    beside, inside = here.parents[2] / "configs", here.parents[1] / "configs"
    return inside if inside.is_dir() else beside


def names() -> list[str]:
    """Short names of all shipped configs."""
    root = folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(name: str | Path) -> Path:
    """The file of a config.

    Args:
      name: path of a YAML file, with or without .yaml; folder of a run, whose config.yaml it is; or short
        name of a shipped config. A path takes precedence over a name.
    Raises: ValueError if there is none, with the nearest names.

    >>> find("sft/tiny").name
    'tiny.yaml'
    """
    path = Path(name)
    places = (path, path / "config.yaml", Path(f"{name}.yaml"), folder() / f"{name}.yaml")
    for place in places:
        if place.is_file():
            return place
    wanted = str(name).removeprefix("configs/").removesuffix(".yaml")
    near = difflib.get_close_matches(wanted, names(), n=3, cutoff=0.5)
    near += [known for known in names() if wanted in known.split("/") and known not in near]
    hint = f"the nearest are {', '.join(near)}" if near else f"shipped are {', '.join(names())}"
    raise ValueError(
        f"there is no config {str(name)!r}, neither a file nor the name of a shipped one: {hint}"
    )

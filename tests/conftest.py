"""Test session set-up: eight fake CPU devices, strict dtypes and ranks, no network."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# prepared data is named by what makes it, so that sessions may share it
os.environ.setdefault("JAXMOE_CACHE", str(Path(tempfile.gettempdir()) / f"jaxmoe-tests-{os.getuid()}"))
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # small products; pytest runs a worker a core
    os.environ.setdefault(_threads, "1")
# most of a test's time is compiling programs that run once: leave out LLVM's optimizations, and let the older
# emitters write the loops, in half the time (an XLA without the choice ends at once and names the flag)
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}"
# programs that take a while to compile are shared by the workers and commands of a session, which saves tests
# that train a seventh of their time
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    PROGRAMS = tempfile.mkdtemp(prefix="jaxmoe-programs-")
    atexit.register(shutil.rmtree, PROGRAMS, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": PROGRAMS, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}

import jax
import pytest

if find_spec("hypothesis") is not None:  # the environment of `make docs` has none
    import hypothesis

    # How long an example takes is the machine's affair; tests of time measure it themselves. The examples are
    # the same in every run, so that no commit fails by chance; --hypothesis-profile=default finds others.
    hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("tests")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

from tests.tolerances import double_precision

GOLDENS = Path(__file__).parent / "goldens"
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="module")
def in_double_precision():
    """A whole file in double precision: `pytestmark = pytest.mark.usefixtures("in_double_precision")`."""
    with double_precision():
        yield


# memory maps of a process, of which Linux allows 65,530; a compiled program keeps about nine
MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten():
    """Thousands of compiled programs in one process would end it: the next map is refused with a crash."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Reference values that are part of the project."""
    return GOLDENS


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data kept beside the checkout; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}")
    return SHARED

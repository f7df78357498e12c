"""Settings of the whole suite: eight CPU devices, strict broadcasting, and the data beside the checkout."""

import importlib.metadata
import os

# Tests compile much and compute little: without fused loops and with few optimizations the suite takes half the time.
# Later releases of jaxlib know that flag no more, and stop at a flag that they do not know.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib").startswith("0.10.") else "",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Two workers of pytest share two cores: threads of NumPy's linear algebra would only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pathlib

import emulators
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real sample data beside the checkout; tests that need it are skipped where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real sample data (../shared/data beside the checkout) is not on this machine")
    return folder


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request):
    """The path of an empty bucket in an emulator; tests that need one carry `emulators.MARKS`."""
    emulators.skip_where_absent(request.param)
    with emulators.running(request.param) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in emulators.environment(request.param, url).items():
            patch.setenv(name, value)
        emulators.forget_file_system(request.param)
        yield f"{request.param}://bucket"

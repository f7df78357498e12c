"""The C++ examples, built once."""

import os
import pathlib
import shutil
import subprocess

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "cpp"


def find_headers() -> pathlib.Path | None:
    candidates = (
        os.environ.get("ONNXRUNTIME_INCLUDE_DIR"),
        "/usr/include/onnxruntime",
        "/usr/local/include/onnxruntime",
    )
    for candidate in candidates:
        if candidate and (pathlib.Path(candidate) / "onnxruntime_cxx_api.h").is_file():
            return pathlib.Path(candidate)
    return None


def find_library() -> pathlib.Path | None:
    if "ONNXRUNTIME_LIBRARY" in os.environ:
        return pathlib.Path(os.environ["ONNXRUNTIME_LIBRARY"])
    onnxruntime = pytest.importorskip("onnxruntime")
    return next(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)


@pytest.fixture(scope="session")
def cpp_examples(tmp_path_factory) -> pathlib.Path:
    """Returns the folder of the built C++ examples.

    Needs cmake, a compiler, the headers (ONNXRUNTIME_INCLUDE_DIR or where Debian's libonnxruntime-dev puts them) and
    the library (ONNXRUNTIME_LIBRARY or the onnxruntime wheel).
    """
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("cmake or a C++ compiler is not on this machine")
    headers, library = find_headers(), find_library()
    if headers is None:
        pytest.skip("no onnxruntime_cxx_api.h: set ONNXRUNTIME_INCLUDE_DIR (see examples/cpp/README.md)")
    if library is None:
        pytest.skip("no libonnxruntime.so in the onnxruntime wheel: set ONNXRUNTIME_LIBRARY")
    build = tmp_path_factory.mktemp("cpp")
    configure = [f"-DONNXRUNTIME_INCLUDE_DIR={headers}", f"-DONNXRUNTIME_LIBRARY={library}"]
    for command in (["cmake", "-S", SOURCE, "-B", build, *configure], ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build

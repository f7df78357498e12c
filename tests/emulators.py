"""Object stores for tests, on this machine's loopback: `python tests/emulators.py gs|s3` serves until it is killed.

gs is gcp-storage-emulator, with what it lacks: generations of objects. s3 is moto. Each has a bucket `bucket`.
"""

import contextlib
import functools
import http.server
import importlib.util
import io
import json
import os
import subprocess
import sys
import urllib.parse

import pytest

MARKS = [
    pytest.mark.extras,
    # Of aiohttp: large bodies, and sessions that live as long as the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LIBRARIES = {"gs": ("gcp_storage_emulator", "gcsfs"), "s3": ("moto", "s3fs")}


def skip_where_absent(scheme: str) -> None:
    """Skips a test where the libraries for a kind of store are not installed."""
    for library in LIBRARIES[scheme]:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install -e '.[stores]'")


def environment(scheme: str, url: str) -> dict[str, str]:
    """Returns the variables by which the libraries find an emulator instead of the real store."""
    if scheme == "gs":
        return {
            "STORAGE_EMULATOR_HOST": url,  # gcsfs and google-cloud-storage
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks a service that the emulator lacks
        }
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def forget_file_system(scheme: str) -> None:
    """Makes this process connect anew: an emulator of another module had another address."""
    import fsspec
    from etils.epath import backend

    from epfv2_jax.core import stores

    stores._answered.clear()
    for cached in (stores._file_system, backend.fsspec_backend._get_filesystem):
        cached.cache_clear()
    fsspec.get_filesystem_class(scheme).clear_instance_cache()


@contextlib.contextmanager
def running(scheme: str):
    """Gives the address of a new emulator in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__, scheme], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process.stdout.readline().decode().strip()
    finally:
        process.kill()
        process.communicate()


def _serve_gs() -> None:
    from gcp_storage_emulator import exceptions, server, storage
    from gcp_storage_emulator.handlers import buckets

    class Handler(server.RequestHandler):
        """Tells the generation of an object, and refuses an upload that names another than the object has."""

        _told = None

        def do_GET(self):
            bucket, _, name = urllib.parse.urlsplit(self.path).path.partition("/b/")[2].partition("/o/")
            self._told = self._generation(bucket, urllib.parse.unquote(name))
            super().do_GET()

        def end_headers(self):
            if self._told:
                self.send_header("x-goog-generation", self._told)
            super().end_headers()

        def do_POST(self):
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.rfile = io.BytesIO(body)
            if "ifGenerationMatch" in query:
                # The name is in the query, or in the first part of the body.
                name = query.get("name") or json.loads(body.split(b"\n\n")[1].split(b"\n--")[0])["name"]
                if self._generation(url.path.partition("/b/")[2].split("/")[0], name) != query["ifGenerationMatch"]:
                    self.send_response(412)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            super().do_POST()

        def _generation(self, bucket, name):
            try:
                return self.storage.get_file_obj(bucket, name)["generation"]
            except exceptions.NotFound:
                return "0"

    store = storage.Storage(use_memory_fs=True)
    buckets.create_bucket("bucket", store)
    with http.server.HTTPServer(("127.0.0.1", 0), functools.partial(Handler, store)) as served:
        print(f"http://127.0.0.1:{served.server_port}", flush=True)
        served.serve_forever()


def _serve_s3() -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    served = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    served.start()
    url = f"http://127.0.0.1:{served.get_host_and_port()[1]}"
    os.environ.update(environment("s3", url))
    boto3.client("s3").create_bucket(Bucket="bucket")
    print(url, flush=True)
    served._thread.join()


if __name__ == "__main__":
    {"gs": _serve_gs, "s3": _serve_s3}[sys.argv[1]]()

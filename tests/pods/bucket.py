"""A bucket in an emulator of Google's storage, which runs as a process: python -m tests.pods.bucket PORT."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.pods.pod import free_port
from tests.training.conftest import ROOT

NAME = "pod-bucket"


class Bucket:
    """The objects in the bucket of the emulator at `address`."""

    def __init__(self, address: str):
        self.address = address
        self.environment = {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",  # else TensorStore asks the network for credentials
            "GOOGLE_CLOUD_PROJECT": "any",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks services that are not emulated
        }

    def names(self, prefix: str) -> list[str]:
        """Returns the names of the objects under a prefix, without it."""
        listed = json.loads(self._get(f"storage/v1/b/{NAME}/o?prefix={prefix}"))["items"]
        return [entry["name"].removeprefix(prefix) for entry in listed]

    def read(self, name: str) -> bytes:
        return self._get(f"{NAME}/{name}")

    def answers(self) -> bool:
        try:
            return bool(self._get(""))
        except urllib.error.URLError:
            return False

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.address}/{path}") as answer:
            return answer.read()


@contextlib.contextmanager
def emulated(log: Path) -> Iterator[Bucket]:
    """Starts an emulator, which prints into `log`."""
    port = free_port()
    bucket = Bucket(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "tests.pods.bucket", str(port)]
    with log.open("w") as file, subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file) as emulator:
        deadline = time.monotonic() + 30
        try:
            while not bucket.answers():
                assert emulator.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield bucket
        finally:
            emulator.kill()


def serve(port: int) -> None:
    """Emulates a storage with an empty bucket."""
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import create_server

    without_generation = objects.download

    def download(request, response, storage):
        without_generation(request, response, storage)
        if response.status < 400:  # TensorStore reads the generation of an object from this header, which is not sent
            found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = found["generation"]

    objects.download = download
    create_server("127.0.0.1", port, in_memory=True, default_bucket=NAME).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))

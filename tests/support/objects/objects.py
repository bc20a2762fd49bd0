"""Object stores for tests: an S3 gateway (Versity S3 Gateway, real, over a folder) and Azurite, Microsoft's own
emulator of Azure Blob Storage.

Installs both once, pinned, into `${PYFLARE_CACHE:-~/.cache/pyflare}/services` (the gateway from its Go module, Azurite
from npm). As a program: `objects.py run DIRECTORY` starts them on free loopback ports, prints
`ready S3_PORT AZURE_PORT` once both answer, and ends when its standard input is closed. Exit code 77: they cannot be
had here.

The bucket and the container are called `bucket`. S3's user is `pyflare` with the password `tell-nobody`; Azurite has
the one account that all emulators have, whose key is public.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

GATEWAY = "github.com/versity/versitygw/cmd/versitygw"
GATEWAY_VERSION = "v1.8.0"
AZURITE_VERSION = "3.35.0"
READY_SECONDS = 60.0
UNAVAILABLE = 77
USER = "pyflare"
PASSWORD = "tell-nobody"
BUCKET = "bucket"
AZURE_ACCOUNT = "devstoreaccount1"
# Published by Microsoft for every emulator.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Unavailable(Exception):
    """They cannot be had on this machine."""


def services() -> Path:
    cache = os.environ.get("PYFLARE_CACHE")
    return Path(cache) / "services" if cache else Path.home() / ".cache" / "pyflare" / "services"


def run_quietly(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(folder)
        raise Unavailable(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-300:]}")


def install_gateway() -> Path:
    program = services() / f"versitygw-{GATEWAY_VERSION}" / "versitygw"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise Unavailable("building the S3 gateway needs Go")
    build = program.parent.with_name(f"{program.parent.name}.{os.getpid()}")
    build.mkdir(parents=True, exist_ok=True)
    run_quietly(["go", "install", f"{GATEWAY}@{GATEWAY_VERSION}"], build, {**os.environ, "GOBIN": str(build)})
    program.parent.mkdir(parents=True, exist_ok=True)
    (build / "versitygw").replace(program)
    shutil.rmtree(build)
    return program


def install_azurite() -> Path:
    folder = services() / f"azurite-{AZURITE_VERSION}"
    main = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    if main.exists():
        return main
    if shutil.which("npm") is None:
        raise Unavailable("Azurite needs Node.js and npm")
    build = folder.with_name(f"{folder.name}.{os.getpid()}")
    build.mkdir(parents=True, exist_ok=True)
    (build / "package.json").write_text("{}")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"azurite@{AZURITE_VERSION}"]
    run_quietly(install, build, dict(os.environ))
    shutil.rmtree(folder, ignore_errors=True)
    build.rename(folder)
    return main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Objects:
    """Both stores over one folder."""

    directory: Path
    s3_port: int = 0
    azure_port: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        gateway, azurite = install_gateway(), install_azurite()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.s3_port, self.azure_port = free_port(), free_port()
        # A folder is a bucket there.
        (self.directory / "s3" / BUCKET).mkdir(parents=True)
        (self.directory / "meta").mkdir()
        s3 = [str(gateway), "--port", f"127.0.0.1:{self.s3_port}", "--access", USER, "--secret", PASSWORD, "--quiet"]
        self.run([*s3, "posix", "--sidecar", str(self.directory / "meta"), str(self.directory / "s3")])
        azure = ["node", str(azurite), "--blobHost", "127.0.0.1", "--blobPort", str(self.azure_port), "--silent"]
        self.run([*azure, "--skipApiVersionCheck", "--disableTelemetry", "--location", str(self.directory / "azure")])
        for port in (self.s3_port, self.azure_port):
            self.await_port(port)
        self.make_container()

    def run(self, command: list[str]) -> None:
        with (self.directory / "objects.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def await_port(self, port: int) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and all(process.poll() is None for process in self.processes):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise Unavailable(f"they did not start: {(self.directory / 'objects.log').read_text()[-600:]}")

    def make_container(self) -> None:
        """By Azure's REST interface and its shared key (learn.microsoft.com, "Authorize with Shared Key")."""
        path, version = f"/{AZURE_ACCOUNT}/{BUCKET}", "2021-12-02"
        date = formatdate(usegmt=True)
        canonical = f"x-ms-date:{date}\nx-ms-version:{version}\n/{AZURE_ACCOUNT}{path}\nrestype:container"
        signed = "PUT" + "\n" * 12 + canonical
        signature = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.azure_port}{path}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": version,
                "Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(signature).decode()}",
            },
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            self.stop()
            raise Unavailable(f"the container could not be made: {error.read().decode()[-300:]}") from error

    def environment(self) -> dict[str, str]:
        """What a client needs to find and use them."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{self.azure_port}",
            "AZURE_ALLOW_HTTP": "true",
        }

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] != "run":
        print(__doc__, file=sys.stderr)
        return 2
    objects = Objects(Path(sys.argv[2]))
    try:
        objects.start()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    print(f"ready {objects.s3_port} {objects.azure_port}", flush=True)
    sys.stdin.read()
    objects.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

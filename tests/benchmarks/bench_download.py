"""`ffhqref download` against aria2c, both from nginx on loopback, in one run: bytes a second as a ratio.

2,000 files of 1.3 MB (FFHQ's mean) over eight connections, then one of 1 GB over one. Both sides start from
an empty folder on one disk. Ours verifies each file's digest and flushes it before it is named; aria2c as it
comes does neither, so the comparison is to our disadvantage.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.common import PAIRS, Row, Skip, interleave

FILES, EACH, BIG = 2000, 1_300_000, 1_000_000_000
CONNECTIONS = 8
KIND = {EACH: "md5", BIG: "sha256"}  # what FFHQ's images and the published checkpoints are known by

CONFIG = """
worker_processes 1; daemon off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on;
  client_body_temp_path {root}/t; proxy_temp_path {root}/t; fastcgi_temp_path {root}/t;
  uwsgi_temp_path {root}/t; scgi_temp_path {root}/t;
  server {{ listen 127.0.0.1:{port}; root {root}/www; }}
}}
"""


def run(pairs: int = PAIRS) -> Iterator[Row]:
    """Rate of the same files by ours and by aria2c, taking turns."""
    nginx, aria2 = shutil.which("nginx") or shutil.which("/usr/sbin/nginx"), shutil.which("aria2c")
    if not nginx or not aria2:
        missing = "aria2" if nginx else "nginx"
        raise Skip(f"{missing} is not installed (apt-get install {missing})")
    with tempfile.TemporaryDirectory(prefix="ffhqref-bench-") as folder, _nginx(nginx, Path(folder)) as url:
        root = Path(folder)
        many = _make(root / "www", {f"{number:05d}.png": EACH for number in range(FILES)})
        yield _compare(f"download {FILES:,} files of 1.3 MB", root, url, many, aria2, CONNECTIONS, pairs)
        for name in many:
            (root / "www" / name).unlink()
        big = _make(root / "www", {"big.zip": BIG})
        yield _compare("download one file of 1 GB", root, url, big, aria2, 1, pairs)


@contextmanager
def _nginx(binary: str, root: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root.chmod(0o755)
    (root / "www").mkdir()
    (root / "t").mkdir()
    (root / "nginx.conf").write_text(CONFIG.format(root=root, port=port))
    command = [binary, "-c", str(root / "nginx.conf"), "-p", str(root)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _make(folder: Path, sizes: dict[str, int]) -> dict[str, str]:
    """Write files of random bytes; their digests by name."""
    block = random.Random(0).randbytes(1 << 20)
    sums = {}
    for number, (name, size) in enumerate(sizes.items()):
        digest = hashlib.new(KIND[size], usedforsecurity=False)
        with (folder / name).open("wb") as file:
            for at in range(0, size, len(block)):
                piece = (block[number % 4096 :] + block[: number % 4096])[: size - at]
                file.write(piece)
                digest.update(piece)
        sums[name] = digest.hexdigest()
    return sums


def _compare(
    name: str, root: Path, url: str, sums: dict[str, str], aria2: str, connections: int, pairs: int
) -> Row:
    sizes = {one: (root / "www" / one).stat().st_size for one in sums}
    kind = KIND[next(iter(sizes.values()))]
    manifest, addresses = root / "files.toml", root / "addresses.txt"
    manifest.write_text(
        "".join(
            f'[[file]]\npath = "{one}"\nurls = ["{url}/{one}"]\nbytes = {sizes[one]}\n{kind} = "{digest}"\n'
            for one, digest in sums.items()
        )
    )
    addresses.write_text("".join(f"{url}/{one}\n" for one in sums))
    out = root / "out"
    ours = [sys.executable, "-m", "ffhqref", "download", str(manifest), "--out", str(out)]
    ours += ["--jobs", str(connections)]
    theirs = [aria2, "-q", "-x1", "-s1", f"-j{connections}", "-d", str(out), "--file-allocation=none"]
    theirs += ["-i", str(addresses)]
    total = sum(sizes.values()) / 1e6
    times = interleave(
        pairs, ours=lambda: _timed(ours, out, sizes), theirs=lambda: _timed(theirs, out, sizes)
    )
    note = (
        f"beside aria2c, {connections} connections, nginx on loopback; ours checks {kind} and flushes, "
        "aria2c does neither"
    )
    return times.row(name, times.made["ours"], times.made["theirs"], "MB/s", note, lambda cost: total / cost)


def _timed(command: list[str], out: Path, sizes: dict[str, int]) -> float:
    """Seconds of the command; the files it wrote are counted and go again."""
    os.sync()
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - began
    if any((out / name).stat().st_size != size for name, size in sizes.items()):
        raise RuntimeError(f"{command[0]} left files out")
    shutil.rmtree(out)
    return taken

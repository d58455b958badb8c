"""`ffhqref download` against aria2c, both from nginx on loopback, in one run: bytes a second as a ratio.

2,000 files of 1.3 MB (FFHQ's mean) over eight connections, then one of 1 GB over one. Both sides start from
an empty folder on one disk. Ours verifies each file's digest and flushes it before it is named; aria2c is run
twice: as it comes, and with the digests to check and its files flushed at the end, which is the same work.
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

FILES, EACH, BIG = 2000, 1_300_000, 1_000_000_000
CONNECTIONS = 8
ROUNDS = 3
KIND = {EACH: "md5", BIG: "sha256"}  # what FFHQ's images and the published checkpoints are known by
ARIA2_KIND = {"md5": "md5", "sha256": "sha-256"}

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


def run() -> list[dict[str, object]]:
    """Rows of name, ours, theirs (MB/s, medians of three), ratio, unit, note."""
    nginx, aria2 = shutil.which("nginx") or shutil.which("/usr/sbin/nginx"), shutil.which("aria2c")
    if not nginx or not aria2:
        missing = "nginx" if not nginx else "aria2"
        note = f"skipped: {missing} is not installed (apt-get install {missing})"
        return [
            {"name": "download", "ours": None, "theirs": None, "ratio": None, "unit": "MB/s", "note": note}
        ]
    with tempfile.TemporaryDirectory(prefix="ffhqref-bench-") as folder, _nginx(nginx, Path(folder)) as url:
        root = Path(folder)
        many = _make(root / "www", {f"{number:05d}.png": EACH for number in range(FILES)})
        rows = _compare("download, 2,000 files of 1.3 MB, 8 connections", root, url, many, aria2, CONNECTIONS)
        for name in many:
            (root / "www" / name).unlink()
        big = _make(root / "www", {"big.zip": BIG})
        return rows + _compare("download, one file of 1 GB, 1 connection", root, url, big, aria2, 1)


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
    name: str, root: Path, url: str, sums: dict[str, str], aria2: str, connections: int
) -> list[dict[str, object]]:
    sizes = {one: (root / "www" / one).stat().st_size for one in sums}
    kind = KIND[next(iter(sizes.values()))]
    manifest, plain, checked = root / "files.toml", root / "plain.txt", root / "checked.txt"
    manifest.write_text(
        "".join(
            f'[[file]]\npath = "{one}"\nurls = ["{url}/{one}"]\nbytes = {sizes[one]}\n{kind} = "{digest}"\n'
            for one, digest in sums.items()
        )
    )
    plain.write_text("".join(f"{url}/{one}\n" for one in sums))
    checked.write_text(
        "".join(f"{url}/{one}\n  checksum={ARIA2_KIND[kind]}={digest}\n" for one, digest in sums.items())
    )
    out = root / "out"
    ours = [sys.executable, "-m", "ffhqref", "download", str(manifest), "--out", str(out)]
    ours += ["--jobs", str(connections)]
    theirs = [aria2, "-q", "-x1", "-s1", f"-j{connections}", "-d", str(out), "--file-allocation=none"]
    total = sum(sizes.values()) / 1e6
    commands = {
        "ours": (ours, False),
        "aria2c": ([*theirs, "-i", str(plain)], False),
        "aria2c, checked and flushed": ([*theirs, "-i", str(checked)], True),
    }
    times: dict[str, list[float]] = {label: [] for label in commands}
    for _ in range(ROUNDS):
        for label, (command, flush) in commands.items():
            times[label].append(_timed(command, out, flush))
            assert len([one for one in sums if (out / one).stat().st_size == sizes[one]]) == len(sums)
            shutil.rmtree(out)
    speeds = {label: total / sorted(all_times)[ROUNDS // 2] for label, all_times in times.items()}
    return [
        {
            "name": f"{name}, against {label}",
            "ours": round(speeds["ours"], 1),
            "theirs": round(speeds[label], 1),
            "ratio": round(speeds["ours"] / speeds[label], 2),
            "unit": "MB/s",
            "note": f"ours checks {kind} and flushes each file before it is named",
        }
        for label in list(commands)[1:]
    ]


def _timed(command: list[str], out: Path, flush: bool) -> float:
    os.sync()
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if flush:
        for path in out.iterdir():
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
    return time.perf_counter() - began


if __name__ == "__main__":
    for row in run():
        print(row)

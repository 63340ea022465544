"""How fast files are pruned, packed and fetched, against a plain copy of as many bytes on the same disk.

usage: dev/run bench_copy [--folder DIR] [--gib N] [--runs N] [--out results/copy.json]

Makes a twin of siblings and then a nested one, of noise, in a folder of its own below DIR, which is removed at the end;
needs about 3.6 times --gib of free space. One run is a copy, a prune, a copy and a pack, one after the other; each ends
with the file synced to the disk, and starts with the bytes to read in the page cache as far as memory goes. Medians and
their ratio are shown: 1 is as fast as `cp --reflink=never`. At the end the twin is fetched once from a server on this
machine.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from pack_twin import pack
from phase_twin.files import write_text
from prune_dual import (
    GIB,
    IQ3_A770,
    IQ4_A770,
    MIB,
    NESTED,
    SIBLINGS,
    Gguf,
    Selection,
    Span,
    Tensor,
    Twin,
    encode_kv,
    lay_out,
    prune,
    select,
    tensor_nbytes,
    type_kv,
)
from prune_dual.files import write_all
from prune_dual.transport.remote import open_remote
from prune_dual.transport.source import Output

log = logging.getLogger("phase_twin")

Q4_K, REST = 12, 14  # Q6_K
TYPES = {SIBLINGS: (IQ3_A770, Q4_K), NESTED: (IQ4_A770,)}  # of the experts in the files that are packed
SHAPE = (2048, 512, 256)  # of an expert tensor of the target model


def make_variants(folder: Path, kind: str, twin_nbytes: int) -> list[Path]:
    """Plain files of noise that give a twin of at least `twin_nbytes` bytes: no holes, nothing to compress."""
    groups = -(-twin_nbytes // sum(tensor_nbytes(SHAPE, of) for of in TYPES[kind]))
    noise = np.random.default_rng(0).bytes(61 * MIB + 13)  # of odd length, so no two tensors are alike
    paths = []
    for number, of_experts in enumerate(TYPES[kind]):
        path = folder / f"variant{number}.gguf"
        shapes = {"token_embd.weight": ((2048, 32768), REST)}
        shapes |= {f"blk.{n}.ffn_gate_exps.weight": (SHAPE, of_experts) for n in range(groups)}
        nowhere = Path("nowhere")
        tensors = [
            Tensor(name, shape, of, Span(nowhere, 0, tensor_nbytes(shape, of))) for name, (shape, of) in shapes.items()
        ]
        layout = lay_out([encode_kv("general.architecture", "str", "noise"), *type_kv([of_experts])], tensors)
        with open(path, "wb", buffering=0) as file:
            write_all(file, b"".join(part for part in layout.head if isinstance(part, bytes)))
            for tensor, offset in layout.placed:
                file.seek(offset)
                # the shared tensor must be the same in both
                start = offset % len(noise) if tensor.name.startswith("blk") else 0
                left = tensor.nbytes
                while left:
                    piece = noise[start : start + left]
                    write_all(file, piece)
                    left, start = left - len(piece), 0
        paths.append(path)
    return paths


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes, on a disk that has finished what came before."""
    os.sync()
    start = time.monotonic()
    work()
    return time.monotonic() - start


def plain_copy(sources: list[Path], folder: Path) -> None:
    """Copy files to `folder` with cp, and sync them."""
    folder.mkdir()
    for path in sources:
        subprocess.run(["cp", "--reflink=never", path, folder / path.name], check=True)
        with open(folder / path.name, "rb") as file:
            os.fsync(file.fileno())


def measure(folder: Path, kind: str, runs: int, twin_nbytes: int) -> dict[str, Any]:
    """Throughput of prune and pack and of copies of as many bytes, in MiB/s, run by run."""
    variants = make_variants(folder, kind, twin_nbytes)
    order = [t.name for t in Gguf.read(variants[0]).tensors if t.name.startswith("blk")]
    twin, out = folder / "twin.gguf", folder / "out.gguf"
    pack(variants, twin, order, None)
    view = Twin.read(twin)
    low = select(view, variant=0).selected_bytes
    high = select(view, variant=1).selected_bytes
    half = select(view, budget_bytes=(low + high) // 2)
    # what is copied for comparison: the very bytes that prune writes, and those that pack gets
    prune(view, half, folder / "fitted.gguf")
    sources = {"prune": [folder / "fitted.gguf"], "pack": variants}
    works: dict[str, Callable[[], Any]] = {
        "prune": lambda: prune(view, half, out),
        "pack": lambda: pack(variants, out, order, None),
    }
    seconds: dict[str, list[float]] = {key: [] for name in works for key in (name, f"{name} copy")}
    copies = folder / "copies"
    for run in range(runs + 1):
        for name, work in works.items():
            steps = [(name, work), (f"{name} copy", lambda name=name: plain_copy(sources[name], copies))]
            # the order changes, so that neither profits from what the other leaves
            for key, step in steps if run % 2 else reversed(steps):
                took = timed(step)
                if run:  # the first is for warming up
                    seconds[key].append(took)
                log.info("%s, run %d, %s: %.2f s", kind, run, key, took)
                out.unlink(missing_ok=True)
                shutil.rmtree(copies, ignore_errors=True)
    report: dict[str, Any] = {"twin_bytes": twin.stat().st_size, "runs": runs, "load": os.getloadavg()[1]}
    for name in works:
        nbytes = sum(path.stat().st_size for path in sources[name])
        speed, plain = ([nbytes / MIB / s for s in seconds[key]] for key in (name, f"{name} copy"))
        report[name] = {
            "bytes": nbytes,
            "mib_s": round(statistics.median(speed), 1),
            "copy_mib_s": round(statistics.median(plain), 1),
            "ratio": round(statistics.median(speed) / statistics.median(plain), 3),
            # of each run's own pair: what else the machine does in that run weighs on both
            "ratio_of_pairs": round(statistics.median(a / b for a, b in zip(speed, plain, strict=True)), 3),
            "all_mib_s": [round(s, 1) for s in speed],
            "all_copy_mib_s": [round(s, 1) for s in plain],
        }
    report["fetch"] = fetch(twin, out, half)
    return report


def fetch(twin: Path, out: Path, selection: Selection) -> dict[str, Any]:
    """Fetch a selection from a server on this machine; bytes on the wire, requests and throughput."""
    server = _Server(twin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    start = time.monotonic()
    with open_remote(f"http://127.0.0.1:{server.server_port}/twin.gguf", out) as source:
        source.write(Output(selection, out))
        head = source.twin.gguf.data_start
    took = time.monotonic() - start
    server.shutdown()
    server.server_close()
    return {
        "twin_bytes": twin.stat().st_size,
        "selected_bytes": selection.selected_bytes,
        "head_bytes": head,
        "fetched_bytes": server.sent,
        "overhead": round(server.sent / (selection.selected_bytes + head) - 1, 6),
        "requests": server.count,
        "mib_s": round(server.sent / MIB / took, 1),
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.path, self.sent, self.count, self.mutex = path, 0, 0, threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        """Answer a range."""
        total = self.server.path.stat().st_size
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, total - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", '"noise"')
        self.end_headers()
        self.wfile.flush()
        with open(self.server.path, "rb") as file:
            at = first
            while at <= last:
                at += os.sendfile(self.connection.fileno(), file.fileno(), at, last + 1 - at)
        with self.server.mutex:
            self.server.sent += last + 1 - first
            self.server.count += 1


def main() -> None:
    """Measure, print a table, write the report."""
    parser = argparse.ArgumentParser(description="Throughput of prune and pack against a plain copy.")
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where to measure: a folder of the disk in question"
    )
    parser.add_argument("--gib", type=float, default=4.0, help="size of the twin (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="repetitions beside one to warm up (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/copy.json"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    reports = {}
    for kind in TYPES:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix=".bench-copy-") as folder:
            reports[kind] = measure(Path(folder), kind, args.runs, int(args.gib * GIB))
    write_text(args.out, json.dumps(reports, indent=1) + "\n")
    for kind, report in reports.items():
        print(f"{kind:8} {'GiB':>6} {'MiB/s':>8} {'copy':>8} {'ratio':>6} {'of pairs':>9}")
        for name in ("prune", "pack"):
            row = report[name]
            print(
                f"{name:8} {row['bytes'] / GIB:6.2f} {row['mib_s']:8.0f} {row['copy_mib_s']:8.0f} {row['ratio']:6.2f} "
                f"{row['ratio_of_pairs']:9.2f}"
            )
        row = report["fetch"]
        print(
            f"fetch: {row['fetched_bytes'] / GIB:.2f} of {row['twin_bytes'] / GIB:.2f} GiB in {row['requests']} "
            f"requests, {100 * row['overhead']:.3f} % more than head and selection, {row['mib_s']:.0f} MiB/s"
        )
        print(
            f"5-minute load of the machine: {report['load']:.1f}; much more than this program's 1 makes figures noise"
        )


if __name__ == "__main__":
    main()

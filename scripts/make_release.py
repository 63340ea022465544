"""Put the release folder together: what a user of the model downloads, and nothing else.

The folder is built under a temporary name and renamed when complete. The same inputs give the same bytes.

snakemake.input: twin, verified (the report of verify_twin), mmproj and mmproj_digest (may be absent), curve, kinds
(bench/kinds.json or kind.json, may be absent), pictures, quality, speed, calibration, provenance, pruned and selections
(one per target), patches (in series order), templates (all of release/), prune_tool (scripts/prune-dual.py and its
package), license, community (rows of speed that were sent in).
snakemake.params: model (title, license, repo or None), engine (of sources.yaml), variants (recipes by kind of the
twin), stock (recipes by label), targets (of prune_targets), release (sign, repo), texts (names of those for
`calibration` and `evaluation`).
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from phase_twin.card import (
    Calibration,
    Curve,
    Kinds,
    QualityRow,
    Selection,
    SpeedRow,
    card_context,
    describe_fits,
    read_results,
    render,
    render_card,
    shell_safe,
)
from phase_twin.community import Row, read_rows, table_lines
from phase_twin.config import Signing
from phase_twin.errors import UserError
from phase_twin.files import check_digest, sha256_file
from phase_twin.licenses import LICENSES, cannot_carry
from phase_twin.rule import Progress, run_rule
from phase_twin.signing import sign
from phase_twin.single_file import single_file
from prune_dual import MANIFEST_NAME, NESTED, FileHash, Manifest, Twin, hash_gguf

log = logging.getLogger("phase_twin")

PATCH_NAME = "llama.cpp-turbo-phase-twin.patch"
# template -> its place in the release
TEMPLATES = {
    "run-nx2.sh": "run-nx2.sh",
    "install-nx2.sh": "install-nx2.sh",
    "bench-nx2.sh": "bench-nx2.sh",
    "bench-nx2.py": "bench-nx2.py",
    "build.sh": "build/build.sh",
    "BUILD.md": "build/BUILD.md",
    "NOTICE.in": "NOTICE",
    "CITATION.cff.in": "CITATION.cff",
    "model_card.md.j2": "README.md",
}
PROGRAMS = ("run-nx2.sh", "install-nx2.sh", "bench-nx2.sh", "bench-nx2.py", "prune-dual.py", "build/build.sh")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a file, or say in one line that it cannot be."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def concat_patches(paths: Sequence[str | os.PathLike[str]]) -> bytes:
    """Join patch files in the order given."""
    return b"".join(read_bytes(path) for path in paths)


def hash_files(folder: Path, known: dict[str, str]) -> list[FileHash]:
    """Size and SHA-256 of every file under `folder`, by name; those whose hash is `known` are not read again."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [
        FileHash(name, (folder / name).stat().st_size, known.get(name) or sha256_file(folder / name)) for name in names
    ]


def hash_twin(view: Twin, verified: dict[str, str]) -> tuple[str, dict[str, str]]:
    """SHA-256 of the twin and of its tensors, read once; these must be what they were when they were `verified`."""
    with Progress("hash") as bar:
        digest, tensors = hash_gguf(view.gguf, bar.show)
    if odd := [name for name, found in tensors.items() if verified.get(name) != found]:
        twin = Path(view.gguf.path).name
        raise UserError(
            f"{twin}: tensor {odd[0]} is not what it was when it was verified; remove the twin and run again"
        )
    return digest, tensors


def write_hashes(folder: Path, view: Twin, digest: str, tensors: dict[str, str], signing: Signing | None) -> None:
    """Write manifest.json, which lists all files so far and the tensors of the twin, its signature, and SHA256SUMS.

    SHA256SUMS lists all others. What `hash_twin` returns of the twin is not read again.
    """
    twin = Path(view.gguf.path).name
    files = hash_files(folder, {twin: digest})
    manifest = folder / MANIFEST_NAME
    manifest.write_text(Manifest.of(view, files, tensors).json(), encoding="utf-8")
    if signing:
        sign(manifest, signing, f"{twin}: {MANIFEST_NAME}")
    files = hash_files(folder, {file.name: file.sha256 for file in files})
    (folder / "SHA256SUMS").write_text(sha256sums(files), encoding="utf-8")


def sha256sums(files: Iterable[FileHash]) -> str:
    """The list of files as `sha256sum -c` reads it."""
    return "".join(f"{file.sha256}  {file.name}\n" for file in files)


def file_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Name and size in bytes of a file that the card lists."""
    try:
        return {"name": Path(path).name, "bytes": os.path.getsize(path)}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def place(source: str | os.PathLike[str], target: Path) -> None:
    """Hard-link a large file into the release, or copy it where that is not possible."""
    try:
        try:
            # of the file itself: a linked symlink would dangle elsewhere
            os.link(os.path.realpath(source), target)
        except OSError:
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"cannot put {source} into {target.parent}: {error.strerror}") from error


def license_text(spdx: str, templates: dict[str, str], own: str | os.PathLike[str]) -> bytes:
    """The licence of the weights in full."""
    if reason := cannot_carry(spdx):
        raise UserError(reason)
    name = LICENSES[spdx]
    return read_bytes(own if name is None else templates[name])


def card_lines(rows: Iterable[tuple[str, Row]], digest: str) -> list[dict[str, Any]]:
    """What the card shows of the rows of speed for the file of this SHA-256: how the engine computes by itself."""
    lines = table_lines((status, row) for status, row in rows if row.file.sha256 == digest)
    return [line for line in lines if line["path"] == "live"]


def write_release(
    folder: Path,
    *,
    twin: str,
    curve: str,
    pictures: Sequence[str],
    mmproj: str | None,
    prune_tool: str,
    own_license: str,
    patch: bytes,
    templates: dict[str, str],
    context: dict[str, Any],
    verified: dict[str, str],
    community: list[tuple[str, Row]],
    signing: Signing | None,
) -> None:
    """Fill the empty `folder` with all files, manifest.json and SHA256SUMS last."""
    (folder / "build").mkdir(parents=True)
    place(twin, folder / Path(twin).name)
    view = Twin.read(folder / Path(twin).name)
    digest, tensors = hash_twin(view, verified)
    context = context | {"community": card_lines(community, digest)}
    for path in (curve, *pictures):
        (folder / Path(path).name).write_bytes(read_bytes(path))
    if mmproj:
        place(mmproj, folder / Path(mmproj).name)
    (folder / "build" / PATCH_NAME).write_bytes(patch)
    (folder / "prune-dual.py").write_bytes(single_file(Path(prune_tool), Path(prune_tool).with_name("prune_dual")))
    (folder / "LICENSE-tools").write_bytes(read_bytes(own_license))
    (folder / "LICENSE").write_bytes(license_text(context["model"]["license"], templates, own_license))
    for name, target in TEMPLATES.items():
        text = read_bytes(templates[name]).decode()
        if name.endswith(".sh"):
            text = render(text, context, name, shell_safe)
        elif name == "model_card.md.j2":
            text = render_card(text, context)
        elif not name.endswith(".py"):
            text = render(text, context, name)
        (folder / target).write_text(text, encoding="utf-8")
    for program in PROGRAMS:
        (folder / program).chmod(0o755)
    write_hashes(folder, view, digest, tensors, signing)


def by_name(paths: Iterable[str]) -> dict[str, str]:
    """File name -> path of the templates; all must be there."""
    found = {Path(path).name: path for path in paths}
    for name in (*TEMPLATES, *filter(None, LICENSES.values())):
        if name not in found:
            raise UserError(f"the release template {name} is missing")
    return found


def twin_facts(twin: Twin) -> dict[str, Any]:
    """What the card tells of a twin beside its file: the weights of a phase, and whether one phase is in the other."""
    return {"weights": sum(tensor.n_elements for tensor in twin.phase(0)), "nested": twin.kind == NESTED}


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    given, params = snakemake.input, snakemake.params
    patch = concat_patches(given.patches)
    mmproj = given.get("mmproj")
    if mmproj:
        check_digest(mmproj, given.mmproj_digest)
    signing = Signing.model_validate(params.release["sign"]) if params.release["sign"] else None
    selections = [read_results(path, Selection) for path in given.selections]
    report = json.loads(read_bytes(given.verified))
    twin = Twin.read(given.twin)
    kinds = given.get("kinds")
    community = read_rows(map(Path, given.community))
    context = card_context(
        model=params.model,
        engine=params.engine,
        texts=params.texts,
        variants=params.variants[twin.kind],
        types=report["types"],
        calibration=read_results(given.calibration, Calibration),
        stock=params.stock,
        twin=file_facts(given.twin) | twin_facts(twin),
        mmproj=file_facts(mmproj) if mmproj else None,
        quality=read_results(given.quality, list[QualityRow]),
        speed=read_results(given.speed, list[SpeedRow]),
        kinds=read_results(kinds, Kinds) if kinds else None,
        order=read_results(given.curve, Curve).order,
        fits=describe_fits(params.targets, given.pruned, selections),
        provenance=read_results(given.provenance, dict[str, str | int]),
        patch_sha256=hashlib.sha256(patch).hexdigest(),
        release={"repo": params.release["repo"], "identity": signing.identity if signing else None},
    )
    final = Path(snakemake.output.sums).parent
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_release(
        partial,
        twin=given.twin,
        curve=given.curve,
        pictures=given.pictures,
        mmproj=mmproj,
        prune_tool=given.prune_tool[0],
        own_license=given.license,
        patch=patch,
        templates=by_name(given.templates),
        context=context,
        verified={name: tensor["sha256"] for name, tensor in report["tensors"].items()},
        community=community,
        signing=signing,
    )
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    log.info("%s: %s", final, ", ".join(sorted(os.listdir(final))))


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821

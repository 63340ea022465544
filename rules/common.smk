# What every stage uses: the validated configuration, path helpers, needed resources.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

PROJECT = Path(workflow.basedir)

if not (PROJECT / "scripts/phase_twin").is_dir():
    raise WorkflowError(
        f"{workflow.basedir} holds no scripts/: the workflow needs its whole folder on this machine; fetch the project "
        "and give its Snakefile with -s"
    )
if not (os.path.exists(".snakemake") or os.access(os.curdir, os.W_OK)):
    raise WorkflowError(
        f"{Path.cwd()} cannot be written: say with --directory where results go"
    )


def project(path):
    """A part of the project, wherever the workflow runs; in its own folder by the short name that records have."""
    return path if PROJECT.samefile(os.curdir) else str(PROJECT / path)


configfile: project("config/config.yaml")


# as in the scripts: the packages stand in scripts/, also where the workflow runs in another folder
sys.path.insert(0, str(PROJECT / "scripts"))

from phase_twin.backends import CARDS
from phase_twin.checkpoint import look_at, read_checkpoint
from phase_twin.clock import refuse_future
from phase_twin.config import PHASES, load as load_config, twin_hash
from phase_twin.errors import UserError
from phase_twin.recipes import Recipe, kind_of, siblings_of
from phase_twin.results import read_result
from phase_twin.run_lock import clear_stale_locks, hold_run_lock
from phase_twin.series import read_series
from phase_twin.sources import load_sources
from phase_twin.text_length import look_at_text, not_utf8, text_uses
from prune_dual import NESTED

# also a param of what a cache between workflows may keep: it must not outlive a change of ours
from phase_twin.version import VERSION

# python, cmake and ninja of the environment that snakemake runs in, also where it was not activated
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

SOURCES_FILE = project("config/sources.yaml")

try:
    CFG = load_config(config)
    SOURCES = load_sources(SOURCES_FILE)
    SERIES = read_series(Path(project("patches")))
except UserError as error:
    raise WorkflowError(str(error))


# jobs on other machines are part of a run that holds the lock
if workflow.is_main_process:
    clear_stale_locks(Path(".snakemake"))


def refuse_what_is_no_folder():
    """Refuse a file, or a link that leads nowhere, in the place of a folder that a run fills."""
    for path in ("results", "resources", "logs", results(""), model_resources("")):
        if os.path.lexists(path.rstrip("/")) and not os.path.isdir(path):
            raise WorkflowError(
                f"{Path.cwd() / path} is no folder, nor a link to one: move it away"
            )


def refuse_hopeless_start():
    """Refuse where another run is at work, whatever became of Snakemake's lock, or where nothing can be written."""
    try:
        hold_run_lock(Path(".snakemake"))
    except UserError as error:
        raise WorkflowError(str(error))
    for folder in (results(""), model_resources("")):
        if os.path.exists(folder) and not os.access(folder, os.W_OK):
            raise WorkflowError(
                f"{folder} cannot be written: make it writable and run again, what is finished is kept"
            )


def results(path):
    """What a run is for: kept, one folder per model."""
    return f"results/{CFG.model.name}/{path}"


def resources(path):
    """What can be made or fetched again: large, shared by runs or models."""
    return f"resources/{path}"


def model_resources(path):
    return resources(f"models/{CFG.model.name}/{path}")


def disposable(path):
    """A large output that `disk.lean` has deleted after its last use."""
    return temp(path) if CFG.disk.lean else path


def logs(path):
    return f"logs/{CFG.model.name}/{path}"


def benchmarks(path):
    return f"benchmarks/{CFG.model.name}/{path}.tsv"


OWN_BENCHMARKS = {}


def own_benchmark(rule_name, path):
    """A param for rules whose files may come from a cache: Snakemake lets them have no benchmark, so the script writes it."""
    OWN_BENCHMARKS[rule_name] = IOFile(path).regex().pattern
    return path


LOCAL = "local:"


def local_path(name):
    """Where a path of the user's is: as seen from the working folder, or from the project; None if there is none."""
    return next(filter(os.path.exists, (name, project(name))), None)


def source_path(reference, kind, fetched):
    """A file or folder of the user's, or `fetched`, which a rule brings from the source of that name."""
    if reference.startswith(LOCAL):
        name = reference.removeprefix(LOCAL)
        if found := local_path(name):
            return found
        raise WorkflowError(
            f"{reference}: no such file or folder; give a path as seen from {Path.cwd()}"
            + ("" if project(name) == name else f" or {PROJECT}")
        )
    known = getattr(SOURCES, kind)
    if reference not in known:
        raise WorkflowError(
            f"{reference!r} is not among {kind} in {SOURCES_FILE}; known: {', '.join(known)}"
        )
    return resources(fetched)


def text_path(reference):
    return source_path(reference, "texts", f"texts/{reference}.txt")


def checkpoint_path(reference):
    return source_path(reference, "checkpoints", f"checkpoints/{reference}")


def checkpoint_files(reference):
    """What a change of the checkpoint shows in: a folder's time tells nothing of its files."""
    path = checkpoint_path(reference)
    if not reference.startswith(LOCAL):
        return path
    return sorted(str(file) for file in Path(path).rglob("*") if file.is_file())


def watched_files():
    """What is compared by time: the user's checkpoint and texts, and what runs have made of them."""
    used = [CFG.model.checkpoint, CFG.imatrix.corpus, CFG.bench.quality.corpus]
    own = [
        local_path(name.removeprefix(LOCAL)) for name in used if name.startswith(LOCAL)
    ]
    for path in map(Path, [*filter(None, own), results(""), model_resources("")]):
        yield from path.rglob("*") if path.is_dir() else [path]


def has_tower():
    """Whether the checkpoint has a vision tower: as set, else as a local one shows; one on the hub should have it."""
    if CFG.model.vision_tower is not None or not CFG.model.checkpoint.startswith(LOCAL):
        return CFG.model.vision_tower is not False
    return bool(read_checkpoint(Path(checkpoint_path(CFG.model.checkpoint))).tower)


def look_at_texts():
    """Refuse or warn of texts that are too short or no UTF-8; those to be downloaded are counted at first use."""
    uses = text_uses(CFG)
    texts = {text_path(use.corpus) for use in uses}
    for path in filter(os.path.isfile, sorted(texts)):
        if told := not_utf8(Path(path)):
            logger.warning(told)
    for use in uses:
        path = Path(text_path(use.corpus))
        if path.exists() and (told := look_at_text(path, use)):
            logger.warning(told)


try:
    refuse_what_is_no_folder()
    HAS_TOWER = has_tower()
    if workflow.is_main_process:
        refuse_future(watched_files())
        # what is downloaded is looked at before it is converted
        if CFG.model.checkpoint.startswith(LOCAL):
            look_at(
                Path(checkpoint_path(CFG.model.checkpoint)),
                CFG.model.expert_layers,
                HAS_TOWER,
                CFG.model.mtp == "keep",
            )
        look_at_texts()
except UserError as error:
    raise WorkflowError(str(error))


STUDY_PREFIX = "study-"
SIBLING_RECIPES = siblings_of(CFG.variants) if NESTED in CFG.kinds else []


def all_recipes():
    """Every recipe of the configuration under the name of its file."""
    kind = CFG.bench.quality.reference
    found = {f"variant{number}": recipe for number, recipe in enumerate(CFG.variants)}
    found |= {
        f"{STUDY_PREFIX}{label}": recipe for label, recipe in CFG.study.recipes.items()
    }
    # what a nested twin is compared with, unless that is among the others
    for name, recipe in zip(("sibling", "sibling-search"), SIBLING_RECIPES):
        if recipe not in found.values():
            found[name] = recipe
    if kind != "BF16":
        found["reference"] = Recipe(gate=kind, up=kind, down=kind, rest=kind)
    return found


RECIPES = all_recipes()

# threads a heavy rule asks for; --cores lowers it
THREADS = 8
# what a rule that measures asks for beside them
CARD = {"gpu": 1} if CFG.engine.backend in CARDS else {}


def size_mb(factor, base=1000):
    """MB of memory or disk: `base` and `factor` times the size of the BF16 model."""
    return int(base + factor * CFG.model.bf16_gib * 1024)


def minutes(per_gib, base=10):
    """Runtime limit in minutes, growing with the model."""
    return int(base + per_gib * CFG.model.bf16_gib)


def print_made():
    """Say what a finished run left, and where."""
    made = [path for path in Path(results("")).glob("*") if path.suffix == ".gguf"]
    for path in sorted(made):
        logger.info(f"{path.stat().st_size / 2**20:12,.1f} MiB  {path}")
    for part in ("bench", "release"):
        if Path(results(part)).exists():
            logger.info(f"{'folder':>16}  {results(part)}")


def hub_repository():
    """Repository of the original weights; None for a checkpoint of the user's own."""
    entry = SOURCES.checkpoints.get(CFG.model.checkpoint)
    return entry.repo if entry else None

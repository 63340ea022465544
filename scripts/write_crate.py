"""Export which job made what of what, on which machine: a Workflow Run RO-Crate of the results folder.

Snakemake's own record of the jobs is the source. Files below the results folder are data of the crate; others, which
are large or not made here, are named with their hash.

snakemake.input: last (what is made last), engine (facts of the build), snakefile.
snakemake.output: crate (ro-crate-metadata.json in the results folder), workflow (a copy of the Snakefile beside it).
snakemake.params: title, license (an SPDX id), version (of the pipeline), engine (address of its source), config,
project (its folder where that is not the one of the run, else empty).
"""

import json
import logging
import mimetypes
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rocrate.model import (
    ComputationalWorkflow,
    ComputerLanguage,
    ContextEntity,
    File,
    SoftwareApplication,
)
from rocrate.model.computerlanguage import get_lang
from rocrate.rocrate import ROCrate
from snakemake.io import IOFile
from snakemake.persistence.file import FilePersistence

from phase_twin.files import recorded_digest, sha256_file, write_text
from phase_twin.machine import describe_machine
from phase_twin.rule import Progress, run_rule

log = logging.getLogger("phase_twin")

SNAKEFILE = "Snakefile"
ROCRATE_VERSION = "1.1"  # what the profiles are built on
WORKFLOW_PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    "Process Run Crate": "https://w3id.org/ro/wfrun/process/0.5",
    "Workflow Run Crate": "https://w3id.org/ro/wfrun/workflow/0.5",
    "Workflow RO-Crate": WORKFLOW_PROFILE,
}
# terms of the run profiles that RO-Crate's own context lacks; inline, so that no second context is fetched
TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("environment", "sha256")}


@dataclass
class Job:
    """One job that ran; times in seconds since 1970."""

    rule: str
    started: float
    ended: float
    params: list[str]
    inputs: list[str]
    outputs: list[str] = field(default_factory=list)


def read_jobs(persistence: FilePersistence, outputs: Iterable[str]) -> list[Job]:
    """Read Snakemake's records of the jobs that made `outputs`, and of those before them, earliest first."""
    jobs: dict[tuple, Job] = {}
    wanted, seen = list(outputs), set()
    while wanted:
        path = wanted.pop()
        if path in seen:
            continue
        seen.add(path)
        record = persistence.metadata(IOFile(path))
        if not record or not record.rule or record.endtime is None:
            continue  # from outside
        given = (record.params or [], sorted(record.input or []))
        # each output has a record; logs tell jobs of one rule apart
        job = jobs.setdefault(
            (record.rule, tuple(record.log or ())), Job(record.rule, record.starttime, record.endtime, *given)
        )
        job.started, job.ended = min(job.started, record.starttime), max(job.ended, record.endtime)
        job.outputs.append(path)
        wanted += job.inputs
    return sorted(jobs.values(), key=lambda job: (job.ended, job.rule, job.outputs))


def named_in_project(jobs: Iterable[Job], project: str) -> list[Job]:
    """Jobs whose files in the folder `project` are named as in it: where that lies is nobody's business."""

    def short(texts: Iterable[str]) -> list[str]:
        return [text.replace(f"{project}/", "") for text in texts]

    return [replace(job, params=short(job.params), inputs=short(job.inputs)) for job in jobs]


def files_of(jobs: Iterable[Job]) -> list[str]:
    """Every file that the jobs read or made, once."""
    return sorted({path for job in jobs for path in (*job.inputs, *job.outputs)})


def hash_files(paths: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Size and SHA-256, recorded or found, of those that are still there: what is temporary is gone by now."""
    found = [path for path in paths if os.path.isfile(path)]
    total, done, hashes = sum(map(os.path.getsize, found)), 0, {}
    with Progress("hash") as bar:
        for path in found:
            size = os.path.getsize(path)
            hashes[path] = (size, recorded_digest(path) or sha256_file(path))
            done += size
            bar.show(done, total)
    return hashes


def moment(seconds: float) -> str:
    """A time as RO-Crate has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def one_or_more(values: list[Any]) -> Any:
    """A list as RO-Crate wants it: a single value stands alone."""
    return values[0] if len(values) == 1 else values


def encoding_format(path: str) -> str:
    """Media type by the name; of Python's own table, for that of the machine differs between machines."""
    return mimetypes.MimeTypes().guess_type(path)[0] or "application/octet-stream"


class Crate:
    """Builds the crate of one results folder."""

    def __init__(self, folder: Path, title: str, license_id: str) -> None:
        self.folder = folder
        self.crate = ROCrate(version=ROCRATE_VERSION)
        self.crate.metadata.extra_terms = TERMS
        self.crate.metadata.append_to("conformsTo", {"@id": WORKFLOW_PROFILE})
        self.crate.name = f"{title}: how it was made"
        self.crate.description = "Every job of the run that turned the checkpoint into a phase twin."
        self.crate.license = self.license(license_id)
        self.crate.root_dataset["conformsTo"] = [
            self.described(url, ["CreativeWork", "Profile"], name=name, version=url.rsplit("/", 1)[1])
            for name, url in PROFILES.items()
        ]

    def described(self, identifier: str, kind: str | list[str], **properties: Any) -> ContextEntity:
        """Something that is no file of the crate; what has no value is left out."""
        given = {name: value for name, value in properties.items() if value != []}
        return self.crate.add(ContextEntity(self.crate, identifier, {"@type": kind, **given}))

    def license(self, spdx_id: str) -> ContextEntity:
        """A licence of SPDX's list."""
        return self.described(
            f"https://spdx.org/licenses/{spdx_id}",
            "CreativeWork",
            name=spdx_id,
            description=f"The licence that SPDX lists as {spdx_id}.",
        )

    def software(self, name: str, number: str, **more: Any) -> SoftwareApplication:
        """A program and its version; `url`, if it has one, names it too."""
        properties = {"name": name, "softwareVersion": number, **more}
        return self.crate.add(SoftwareApplication(self.crate, more.get("url", f"#{name}"), properties))

    def language(self) -> ComputerLanguage:
        """What the workflow is written in."""
        return self.crate.add(get_lang(self.crate, "snakemake", version=version("snakemake")))

    def workflow(self, version_: str, language: ComputerLanguage, parts: list[Any]) -> ComputationalWorkflow:
        """The Snakefile as the main entity."""
        workflow = self.crate.add(
            ComputationalWorkflow(
                self.crate,
                dest_path=SNAKEFILE,
                properties={
                    "name": "Phase Twin",
                    "version": version_,
                    "encodingFormat": "text/plain",
                    "hasPart": one_or_more(parts),
                },
            )
        )
        workflow["programmingLanguage"] = language
        self.crate.mainEntity = workflow
        return workflow

    def file(self, path: str, known: Mapping[str, tuple[int, str]]) -> Any:
        """A file of the crate if it lies in the folder, else one that is named only."""
        properties: dict[str, Any] = {"name": Path(path).name, "encodingFormat": encoding_format(path)}
        if path in known:
            properties |= {"contentSize": str(known[path][0]), "sha256": known[path][1]}
        if Path(path).is_relative_to(self.folder) and path in known:
            return self.crate.add(
                File(self.crate, dest_path=str(Path(path).relative_to(self.folder)), properties=properties)
            )
        # readers drop what an address may not hold
        return self.described(f"#{quote(path)}", "File", **properties)

    def action(
        self, name: str, description: str, instrument: Any, start: float, end: float, **more: list[Any]
    ) -> ContextEntity:
        """Something that was done, from `start` to `end`; who had it done is not recorded."""
        return self.described(
            f"#{name}", "CreateAction", name=name, description=description, instrument=instrument,
            startTime=moment(start), endTime=moment(end), **{key: one_or_more(value) for key, value in more.items()},
        )  # fmt: skip

    def value(self, name: str, value: Any) -> ContextEntity:
        """A name and what it stands for."""
        return self.described(f"#{name}", "PropertyValue", name=name, value=value)

    def json(self) -> str:
        """The metadata file's text."""
        return json.dumps(self.crate.metadata.generate(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def describe(
    folder: Path, jobs: list[Job], known: Mapping[str, tuple[int, str]], engine: Mapping[str, Any], params: Any
) -> str:
    """Put the crate of `jobs` together; `known` has size and SHA-256 of their files."""
    crate = Crate(folder, params.title, params.license)
    python = crate.software("Python", platform.python_version(), url="https://www.python.org/")
    llama = crate.software(
        "llama.cpp",
        f"{engine['commit'][:9]}-{engine['patch_sha256'][:8]}",
        url=f"{params.engine}/tree/{engine['commit']}",
        description=f"commit {engine['commit']} with the patches of SHA-256 {engine['patch_sha256']}, built by "
        f"{engine['compiler']} with {' '.join(engine['flags'])}",
    )
    rules = {name: crate.software(f"rule/{name}", params.version) for name in sorted({job.rule for job in jobs})}
    for rule in rules.values():
        rule["softwareRequirements"] = [python, llama]
    workflow = crate.workflow(params.version, crate.language(), list(rules.values()))
    files = {path: crate.file(path, known) for path in files_of(jobs)}
    machine = [crate.value(f"machine/{key}", json.dumps(value)) for key, value in describe_machine().items()]
    settings = [crate.value(f"config/{key}", json.dumps(value, sort_keys=True)) for key, value in params.config.items()]
    made = {path for job in jobs for path in job.outputs}
    mentions = [
        crate.action(
            "run",
            f"The run of the workflow: {len(jobs)} jobs.",
            workflow,
            min(job.started for job in jobs),
            max(job.ended for job in jobs),
            object=[*(files[path] for path in sorted(files.keys() - made)), *settings],
            result=[files[path] for path in sorted(made & known.keys())],
            environment=machine,
        )
    ]
    for number, job in enumerate(jobs, 1):
        given = [crate.value(f"job-{number}/{index}", text) for index, text in enumerate(job.params)]
        mentions.append(
            crate.action(
                f"job-{number}-{job.rule}",
                f"Job {number} of {len(jobs)}, of rule {job.rule}: made {', '.join(sorted(job.outputs))}.",
                rules[job.rule],
                job.started,
                job.ended,
                object=[*(files[path] for path in job.inputs), *given],
                result=[files[path] for path in sorted(job.outputs)],
            )
        )
    crate.crate.root_dataset["mentions"] = mentions
    return crate.json()


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    persistence = FilePersistence(nolock=True)
    jobs = read_jobs(persistence, snakemake.input.last)
    known = hash_files(files_of(jobs))
    if project := snakemake.params.project:
        known = {path.removeprefix(f"{project}/"): found for path, found in known.items()}
        jobs = named_in_project(jobs, project)
    engine = json.loads(Path(snakemake.input.engine).read_text())
    write_text(snakemake.output.workflow, Path(snakemake.input.snakefile).read_text())
    crate = Path(snakemake.output.crate)
    write_text(crate, describe(crate.parent, jobs, known, engine, snakemake.params))
    log.info("%s: %d jobs, %d files", crate, len(jobs), len(known))


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821

"""Hold the RO-Crate of a run to the profiles that it names, without the network.

usage: .venv-validator/bin/python tests/validate_crate.py FOLDER   (of ro-crate-metadata.json; `make setup-validator`)

Prints JSON: of each profile the issues, REQUIRED and RECOMMENDED. Exits with 1 if something REQUIRED is missing.
"""

import io
import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import requests
import requests_cache
import urllib3
from rocrate_validator import services

PROFILES = ("ro-crate-1.1", "process-run-crate-0.5", "workflow-run-crate-0.5")


class FromDisk(requests.adapters.HTTPAdapter):
    """Answers every request with one JSON-LD document."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.document = document

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
        """Answer as a server would."""
        body = urllib3.HTTPResponse(
            io.BytesIO(self.document), {"Content-Type": "application/ld+json"}, 200, preload_content=False
        )
        return self.build_response(request, body)


def fill_cache(path: Path) -> None:
    """Put the context of RO-Crate 1.1, as the locked rocrate carries it, into the validator's cache of the web."""
    document = (files("rocrate") / "data/ro-crate.jsonld").read_bytes()
    address = json.loads(document)["@id"]
    with requests_cache.CachedSession(str(path), backend="sqlite") as session:
        session.mount(address, FromDisk(document))
        session.get(address)


def validate(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return the issues of a crate by profile: severity, check, message, and the entity that has it."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        path = Path(cache, "web")
        fill_cache(path)
        for profile in PROFILES:
            # what the crate names beside its own files lies on the web, or is gone: temporary
            settings = {
                "rocrate_uri": str(folder), "profile_identifier": profile, "requirement_severity": "RECOMMENDED",
                "cache_path": path, "offline": True, "skip_availability_check": True,
            }  # fmt: skip
            found[profile] = [
                {
                    "severity": issue.severity.name,
                    "check": issue.check.identifier,
                    "message": str(issue.message),
                    "entity": str(issue.violatingEntity or ""),
                }
                for issue in services.validate(settings).get_issues()
            ]
    return found


def main() -> None:
    """Map the command line to the functions above."""
    if len(sys.argv) != 2 or not Path(sys.argv[1], "ro-crate-metadata.json").is_file():
        sys.exit("usage: validate_crate.py FOLDER (which holds ro-crate-metadata.json)")
    found = validate(Path(sys.argv[1]))
    print(json.dumps(found, indent=2))
    sys.exit(any(issue["severity"] == "REQUIRED" for issues in found.values() for issue in issues))


if __name__ == "__main__":
    main()

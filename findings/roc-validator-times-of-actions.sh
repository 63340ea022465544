#!/usr/bin/env bash
# roc-validator 0.13.0 (PyPI), profile process-run-crate 0.5, RECOMMENDED (workflow runs inherit it).
#
# startTime and endTime of an action should be ISO 8601, but only an offset with a plus sign passes: UTC written as Z,
# times west of Greenwich and six digits of a second (what Python's isoformat() gives) are called no ISO 8601. The same
# pattern was mended for datePublished of the root (crs4/rocrate-validator, issue 26), not here.
#
# Seen, endTime:
#   accepted: 2026-11-29T10:00:00+00:00, 2026-11-29T10:00:00.123+00:00, 2026-11-29
#   refused:  2026-11-29T10:00:00Z, 2026-11-29T10:00:00-05:00, 2026-11-29T10:00:00.123456+00:00
#   with "The Action SHOULD have an endTime in ISO 8601 format" (process-run-crate-0.5_8.4)
# Way out: write UTC as +00:00, whole seconds or milliseconds. Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# rocrate 0.15.1 carries the context of RO-Crate 1.1, which would be fetched otherwise
"$work/venv/bin/pip" install --quiet --disable-pip-version-check roc-validator==0.13.0 rocrate==0.15.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import io
import sys
from importlib.resources import files

import requests
import requests_cache
import urllib3
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate
from rocrate_validator import services

document = (files("rocrate") / "data/ro-crate.jsonld").read_bytes()


class Disk(requests.adapters.HTTPAdapter):
    def send(self, request, **_):
        head = {"Content-Type": "application/ld+json"}
        return self.build_response(request, urllib3.HTTPResponse(io.BytesIO(document), head, 200, preload_content=False))


with requests_cache.CachedSession("web", backend="sqlite") as session:
    session.mount("https://", Disk())
    session.get("https://w3id.org/ro/crate/1.1/context")
settings = {"rocrate_uri": ".", "profile_identifier": "process-run-crate-0.5", "requirement_severity": "RECOMMENDED"}
settings |= {"cache_path": "web", "offline": True, "skip_availability_check": True}
day, refused = "2026-11-29", []
for end in ("T10:00:00+00:00", "T10:00:00.123+00:00", "", "T10:00:00Z", "T10:00:00-05:00", "T10:00:00.123456+00:00"):
    crate = ROCrate(version="1.1")
    crate.root_dataset["mentions"] = crate.add(ContextEntity(crate, "#a", {"@type": "CreateAction", "endTime": day + end}))
    issues = services.validate_metadata_as_dict(crate.metadata.generate(), settings).get_issues()
    refused += [end] if any("endTime in ISO 8601" in issue.message for issue in issues) else []
    print("refused: " if end in refused else "accepted:", day + end)
sys.exit(0 if refused == ["T10:00:00Z", "T10:00:00-05:00", "T10:00:00.123456+00:00"] else "it behaves otherwise now")
PYTHON

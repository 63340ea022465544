"""Generated files are in sync with what they are generated from, and locks hold hashes."""

import re

from write_generated import direct, generated, pins


def test_generated_files_are_current(root, monkeypatch):
    monkeypatch.chdir(root)
    for path, text in generated().items():
        assert path.read_text() == text, f"{path} is out of date: run dev/run write_generated"


def test_yaml_files_point_at_the_schema(root):
    for name in ("config.yaml", "nano.yaml"):
        first = (root / "config" / name).read_text().splitlines()[0]
        assert first == "# yaml-language-server: $schema=config.schema.json"


def test_locks_pin_every_direct_dependency_with_hashes(root):
    clients = [f"clients/{path.stem}" for path in (root / "envs/clients").glob("*.in")]
    for name in ("pipeline", "dev", "cluster", "validator", *clients):
        lock = (root / f"envs/{name}.lock").read_text()
        wanted = {package.lower() for package in direct((root / f"envs/{name}.in").read_text())}
        assert wanted <= {package.lower() for package in pins(lock)}
        entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
        assert entries
        for entry in entries:
            assert "--hash=sha256:" in entry, entry.splitlines()[0]

"""How a local prune copies bytes, and how it is verified."""

import os
from collections import Counter

from prune_dual import Twin, prune, select
from prune_dual.container import writing
from remote_twin import edited, manifest_of, pruned_locally, run


def test_verify_of_a_local_prune(twin, out, capfd, monkeypatch, caplog):
    (twin.parent / "manifest.json").write_text(manifest_of(twin))
    assert run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify").code == 0
    assert not caplog.text
    out.unlink()
    (twin.parent / "manifest.json").write_text(
        edited(twin, lambda data: data["twin"]["tensors"][0].update(sha256="ab" * 32))
    )
    done = run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify")
    assert done.code == 1
    assert "'token_embd.weight': SHA-256 is" in done.stderr
    (twin.parent / "manifest.json").unlink()
    assert run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify").code == 0
    assert "compared with the twin only" in caplog.text
    out.unlink()

    def damage(source: int, target: int, offset: int, nbytes: int) -> int:
        return os.write(target, bytes(byte ^ 1 for byte in os.pread(source, nbytes, offset)))

    monkeypatch.setattr(writing, "KERNEL_COPIES", [damage])
    done = run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify")
    assert done.code == 1
    assert "tensor 'token_embd.weight' does not have the bytes it has in" in done.stderr
    assert not list(out.parent.iterdir())


def test_sendfile_is_the_second_choice(twin, out, tmp_path, monkeypatch):
    expected = pruned_locally(twin, tmp_path, variant=1)
    calls = Counter()

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    def counted(*arguments):
        calls["sendfile"] += 1
        return writing._sendfile(*arguments)

    view = Twin.read(twin)
    for copies in ([refuse, counted], [refuse, refuse], []):
        monkeypatch.setattr(writing, "KERNEL_COPIES", copies)
        prune(view, select(view, variant=1), out, force=True)
        assert out.read_bytes() == expected
    assert calls["sendfile"] >= 5

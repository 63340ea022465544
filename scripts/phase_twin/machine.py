"""What a report says of the machine, and what it must not say."""

import getpass
import os
import platform
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

# settings that change what the card does; of the rest of the environment nothing is written
SETTINGS = re.compile(
    r"(GGML_(SYCL|CUDA|VK|FUSION)|SYCL|UR|ZE|ZES|ZEX|NEO|ONEAPI_DEVICE)_\w+|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER)"
)


def cards(sysfs: Path = Path("/sys/class/drm")) -> list[dict[str, str]]:
    """Vendor and device id of each graphics card and the kernel driver in charge."""
    found = []
    for card in sorted(sysfs.glob("card[0-9]*")):
        device = card / "device"
        if "-" in card.name or not (device / "vendor").exists():
            continue
        ids = ":".join((device / name).read_text().strip().removeprefix("0x") for name in ("vendor", "device"))
        driver = device / "driver"
        found.append({"pci_id": ids, "driver": os.path.basename(os.readlink(driver)) if driver.is_symlink() else ""})
    return found


def first(pattern: str, path: str) -> str | None:
    """Return what a pattern's group finds first in a file; None without file or match."""
    try:
        match = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None


def describe_machine() -> dict[str, Any]:
    """Return what is known without the card's programs."""
    return {
        "os": first(r'^PRETTY_NAME="?([^"\n]*)', "/etc/os-release"),
        "kernel": platform.release(),
        "cpu": first(r"^model name\s*: (.*)", "/proc/cpuinfo"),
        "threads": os.cpu_count(),
        "memory_kib": first(r"^MemTotal: *(\d+)", "/proc/meminfo"),
        "cards": cards(),
        "settings": {name: value for name, value in sorted(os.environ.items()) if SETTINGS.fullmatch(name)},
    }


def hidden() -> dict[str, dict[str, str]]:
    """Return paths and names that the report must not hold, and what stands for them."""
    names = {}
    # without an entry in the password file there is no name to hide
    with suppress(KeyError, OSError):
        names[getpass.getuser()] = "(user)"
    for name in {socket.gethostname(), socket.gethostname().partition(".")[0]}:
        names[name] = "(host)"
    return {"paths": {str(Path.cwd()): ".", str(Path.home()): "~"}, "names": names}

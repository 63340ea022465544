"""Which graphics cards this machine has by its drivers, and how much memory they have.

Sources, in the order in which they are trusted. A card that two of them see (the same PCI address) is taken from the
first that knows its size; what that one lacks, such as free memory, is filled in from the next.

1. nvidia-smi --query-gpu: NVIDIA's driver itself.
2. sysfs, /sys/class/drm/card*: amdgpu's mem_info_vram_total and _used; for Intel lmem_total_bytes and _avail_bytes of
   i915 (Intel's out-of-tree driver) and tile*/physical_vram_size_bytes of xe, where there are. The size of the
   PCI window is not used: it is the next power of two, 16 GiB for a card of 12.
3. xpu-smi discovery: Intel's tool; total memory.
4. clinfo: OpenCL's CL_DEVICE_GLOBAL_MEM_SIZE. The driver reports somewhat less than the card has.
5. sycl-ls --verbose: names and addresses only; it confirms a card but not its memory.

Integrated graphics use the memory of the machine and are left out: for OpenCL those with unified memory, in sysfs the
device at 00:02.0 (Intel) and AMD's with less than 2 GiB of their own.
"""

import csv
import json
import logging
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import GIB, MIB, GgufError

log = logging.getLogger("prune-dual")

DRM = Path("/sys/class/drm")
TIMEOUT = 30  # seconds for each tool; a driver in trouble lets them hang, one that wakes many cards takes its time
PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE | re.ASCII)
INTEL, AMD = "0x8086", "0x1002"

Run = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Card:
    """A discrete graphics card; memory in bytes, None where the source does not say."""

    name: str
    total: int | None
    free: int | None = None
    address: str | None = None  # PCI, as in 0000:03:00.0
    source: str = ""
    uuid: str = ""  # as in CUDA_VISIBLE_DEVICES
    device: str = ""  # the engine's name for it, as in -dev


def run_tool(command: Sequence[str]) -> str:
    """What a command prints; nothing where it is missing, fails, or does not end in time."""
    # without it Level Zero tells all memory as free
    environ = {"ZES_ENABLE_SYSMAN": "1", **os.environ}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env=environ,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def detect(drm: Path = DRM, run: Run = run_tool) -> list[Card]:
    """Return the discrete cards whose memory is known, by PCI address.

    Parameters
    ----------
    drm
        the kernel's folder of graphics devices.
    run
        runs a command and returns what it printed, the empty string if that was nothing good.
    """
    cards: list[Card] = []
    sources = (
        lambda: _nvidia(run),
        lambda: _sysfs(drm),
        lambda: _xpu_smi(run),
        lambda: _clinfo(run),
        lambda: _sycl_ls(run),
    )
    for source in sources:
        cards = _merge(cards, source())
    return sorted(known(cards), key=lambda card: card.address or "~")


def known(cards: Sequence[Card]) -> list[Card]:
    """Return the cards whose memory is known; warns of others."""
    for card in cards:
        if not card.total:
            where = card.address or card.device
            log.warning("%s (%s): nothing says how much memory it has, left out", card.name, where)
    return [card for card in cards if card.total]


def card_sizes(cards: Sequence[Card], *, free: bool = False) -> list[int]:
    """Bytes of each card, or those free of them.

    Raises
    ------
    GgufError
        if there is no card, or the free memory of one is not known.
    """
    if not cards:
        raise GgufError("no graphics card was found whose memory is known; pass its size: --vram-gib 16")
    sizes = [card.free if free else card.total for card in cards]
    for card, size in zip(cards, sizes, strict=True):
        if size is None:
            raise GgufError(f"{card.name}: its driver does not say how much memory is free; leave out --free")
    return [size for size in sizes if size is not None]


def _merge(cards: list[Card], found: Sequence[Card]) -> list[Card]:
    """Add what is new; fill in what was not known of the others."""
    merged, taken = list(cards), set()
    for card in found:
        match = None
        for i, other in enumerate(merged):
            if i in taken:
                continue
            # a source without addresses means the next card of that name
            both = card.address and other.address
            if card.address == other.address if both else alike(card.name, other.name):
                match = i
                break
        if match is None:
            merged.append(card)
            taken.add(len(merged) - 1)
            continue
        old = merged[match]
        taken.add(match)
        merged[match] = replace(
            old,
            # sysfs has ids for names
            name=card.name if old.source == "sysfs" else old.name,
            total=old.total or card.total,
            free=card.free if old.free is None and old.total else old.free,
            address=old.address or card.address,
            source=card.source if old.source == "sysfs" else old.source,
        )
    return merged


def alike(ours: str, other: str) -> bool:
    """Whether two sources mean one kind of card: the same name, or one has but the maker's."""
    ours, other = (re.sub(r"\((R|TM)\)|graphics", "", name, flags=re.IGNORECASE) for name in (ours, other))
    ours, other = (" ".join(name.lower().split()) for name in (ours, other))
    generic = {"intel card", "amd card"}
    return ours == other or any(one in generic and one.split()[0] in two for one, two in ((ours, other), (other, ours)))


def _address(text: str) -> str | None:
    match = PCI.search(text)
    if not match:
        return None
    domain = int(match[1] or "0", 16)
    return f"{domain:04x}:{match[2]}:{match[3]}.{match[4]}".lower()


def _nvidia(run: Run) -> list[Card]:
    fields = "name,memory.total,memory.free,pci.bus_id,uuid"
    rows = csv.reader(
        run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]).splitlines(),
        skipinitialspace=True,
    )
    cards = []
    for row in rows:
        # it quotes nothing, so a comma in a name makes one more cell
        at = next((i for i, cell in enumerate(row) if i > 2 and _address(cell)), 0)
        total, free, address, *uuid = row[at - 2 :] if at else ["", "", ""]
        if total.strip().isdigit():
            left = int(free) * MIB if free.strip().isdigit() else None
            name = ", ".join(row[: at - 2])
            cards.append(Card(name, int(total) * MIB, left, _address(address), "nvidia-smi", "".join(uuid).strip()))
    return cards


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _read_number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _sysfs(drm: Path) -> list[Card]:
    cards = []
    try:
        folders = sorted(drm.iterdir(), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []
    for folder in folders:
        # card0 is a device, card0-DP-1 one of its outputs
        if not re.fullmatch(r"card[0-9]+", folder.name, re.ASCII):
            continue
        device = folder / "device"
        vendor, address = _read(device / "vendor"), _address(device.resolve().name)
        if vendor == AMD:
            total, used = (_read_number(device / f"mem_info_vram_{end}") for end in ("total", "used"))
            if total is not None and total >= 2 * GIB:
                free = None if used is None else max(0, total - used)
                cards.append(Card(_read(device / "product_name") or "AMD card", total, free, address, "sysfs"))
        # Intel's integrated graphics always have this address
        elif vendor == INTEL and not (address or "").endswith("00:02.0"):
            cards.append(_intel(folder, address))
    return cards


def _intel(folder: Path, address: str | None) -> Card:
    total, free = (_read_number(folder / f"lmem_{end}_bytes") for end in ("total", "avail"))
    if total is None:
        tiles = [_read_number(path) for path in sorted((folder / "device").glob("tile*/physical_vram_size_bytes"))]
        total = sum(size for size in tiles if size) or None
    return Card("Intel card", total, free if total else None, address, "sysfs")


def _xpu_smi(run: Run) -> list[Card]:
    try:
        listed = json.loads(run(["xpu-smi", "discovery", "-j"]) or "{}")["device_list"]
    except (ValueError, KeyError, TypeError):
        return []
    cards = []
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict):
            continue
        ident = str(entry.get("device_id", ""))
        try:
            facts = json.loads(run(["xpu-smi", "discovery", "-d", ident, "-j"]) or "{}") if ident.isdigit() else {}
        except ValueError:
            facts = {}
        size = str((facts if isinstance(facts, dict) else {}).get("memory_physical_size_byte", ""))
        address = _address(str(entry.get("pci_bdf_address", "")))
        if address and not address.endswith("00:02.0"):
            total = int(size) if size.isdigit() and int(size) else None
            cards.append(Card(str(entry.get("device_name", "Intel card")), total, None, address, "xpu-smi"))
    return cards


def _clinfo(run: Run) -> list[Card]:
    """From `clinfo --raw`: a line per property, [platform/device] name value."""
    devices: dict[str, dict[str, str]] = {}
    for line in run(["clinfo", "--raw"]).splitlines():
        match = re.match(r"\[([^\]]+/[0-9]+)\]\s+(CL_DEVICE_\w+)\s+(.*)", line)
        if match:
            devices.setdefault(match[1], {})[match[2]] = match[3].strip()
    cards: dict[tuple[str, str | int], Card] = {}
    for ident, facts in devices.items():
        size = facts.get("CL_DEVICE_GLOBAL_MEM_SIZE", "")
        if "CL_DEVICE_TYPE_GPU" not in facts.get("CL_DEVICE_TYPE", "") or not size.isdigit():
            continue
        if facts.get("CL_DEVICE_HOST_UNIFIED_MEMORY") == "CL_TRUE":
            continue
        address = _address(facts.get("CL_DEVICE_PCI_BUS_INFO_KHR", ""))
        card = Card(facts.get("CL_DEVICE_NAME", "card"), int(size), None, address, "clinfo")
        # several platforms may offer one card
        cards.setdefault((address or ident, 0), card)
    return list(cards.values())


def _sycl_ls(run: Run) -> list[Card]:
    """From `sycl-ls --verbose`: blocks of properties; only cards with an address, for others cannot be told apart."""
    cards, name = [], ""
    for line in run(["sycl-ls", "--verbose"]).splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "Name" and value:
            name = value
        elif key in ("PCI Address", "Pci Address", "PCI address") and name:
            address = _address(value)
            if address and not address.endswith("00:02.0"):
                cards.append(Card(name, None, None, address, "sycl-ls"))
    return cards

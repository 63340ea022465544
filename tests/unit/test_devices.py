"""Detection of cards: what an engine lists, and what drivers and tools say (tests/data/devices)."""

import json
import time
from pathlib import Path

import pytest

from prune_dual import GIB, Card, GgufError, card_sizes, choose, detect, listed_cards, parse_listing, visible
from prune_dual.memory import devices, listing
from release_shell import HEAD, LISTINGS, RTX3060, RTX4090, UHD
from small_run import ROOT

DATA = Path(__file__).parents[1] / "data/devices"
MACHINES = sorted(path.name for path in DATA.iterdir() if path.is_dir())
MIB = 1 << 20


def sysfs(folder: Path, text: str) -> Path:
    """The kernel's tree: cards are links to devices named by their addresses."""
    drm = folder / "class/drm"
    for name, entry in json.loads(text).items():
        card = drm / name
        card.mkdir(parents=True)
        if not entry:
            continue
        address, files = entry
        device = folder / "devices" / address
        device.mkdir(parents=True)
        (card / "device").symlink_to(device)
        for file, content in files.items():
            path = card / file[3:] if file.startswith("../") else device / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(content + "\n")
    return drm


@pytest.fixture
def machine(tmp_path):
    """Detect on a machine, with the tools of `only` or all that it has."""

    def call(name: str, only: set[str] | None = None) -> list[devices.Card]:
        folder = DATA / name

        def run(command):
            tool = command[0]
            if only is not None and tool not in only:
                return ""
            if tool == "xpu-smi" and (folder / "xpu-smi.json").exists():
                answers = json.loads((folder / "xpu-smi.json").read_text())
                return json.dumps(answers[command[command.index("-d") + 1] if "-d" in command else ""])
            path = folder / f"{tool}.txt"
            return path.read_text() if path.exists() else ""

        tree = folder / "sysfs.json"
        use = tree.exists() and (only is None or "sysfs" in only)
        return detect(sysfs(tmp_path, tree.read_text()) if use else tmp_path / "none", run)

    return call


def seen(cards) -> list[tuple]:
    return [(card.name, card.total, card.free, card.address) for card in cards]


@pytest.mark.parametrize(
    ("tools", "total", "free"),
    [(None, 81559 * MIB, 81079 * MIB), ({"nvidia-smi"}, 81559 * MIB, 81079 * MIB), ({"clinfo"}, 85017493504, None)],
)
def test_a_recorded_machine_with_two_cards_and_a_cpu_device(machine, tools, total, free):
    name = "NVIDIA H100 80GB HBM3"
    assert seen(machine("nvidia-h100-two", tools)) == [(name, total, free, f"0000:00:0{slot}.0") for slot in (6, 7)]


def test_arc_with_integrated_graphics_beside_it(machine):
    name = "Intel(R) Arc(TM) A770 Graphics"
    assert seen(machine("arc-a770-xe")) == [(name, 17079205888, None, "0000:03:00.0")]


def test_arc_without_xpu_smi(machine):
    cards = machine("arc-a770-xe", {"sysfs", "clinfo", "sycl-ls"})
    assert seen(cards) == [("Intel(R) Arc(TM) A770 Graphics", 16225243136, None, "0000:03:00.0")]


@pytest.mark.parametrize("tools", [{"xpu-smi"}, {"clinfo"}, {"clinfo", "sycl-ls"}, {"xpu-smi", "clinfo"}])
def test_arc_by_tools_alone(machine, tools):
    assert [card.address for card in machine("arc-a770-xe", tools)] == ["0000:03:00.0"]


def test_a_card_of_unknown_size_is_left_out_with_a_warning(machine, caplog):
    assert machine("arc-a770-xe", {"sysfs", "sycl-ls"}) == []
    assert "Intel(R) Arc(TM) A770 Graphics (0000:03:00.0): nothing says how much memory" in caplog.text


def test_intel_by_the_kernel(machine, caplog):
    assert seen(machine("arc-i915")) == [
        ("Intel card", 17096835072, 16000000000, "0000:03:00.0"),
        ("Intel card", 12884901888, None, "0000:04:00.0"),
    ]
    assert "0000:05:00.0" in caplog.text


def test_amd_without_its_integrated_graphics(machine):
    assert seen(machine("amd-two")) == [
        ("AMD Radeon PRO W7900", 48301604864, 48000000000, "0000:03:00.0"),
        ("AMD card", 17163091968, 17135169536, "0000:43:00.0"),
    ]


def test_nvidia_seen_by_opencl_too(machine):
    cards = machine("nvidia-two")
    assert seen(cards) == [
        ("NVIDIA GeForce RTX 3060", 12288 * MIB, None, "0000:01:00.0"),
        ("NVIDIA GeForce RTX 4090", 24564 * MIB, 23028 * MIB, "0000:41:00.0"),
    ]
    assert card_sizes(cards) == [12288 * MIB, 24564 * MIB]
    with pytest.raises(GgufError, match="RTX 3060: its driver does not say how much memory is free; leave out --free"):
        card_sizes(cards, free=True)
    assert card_sizes(cards[1:], free=True) == [23028 * MIB]


def test_two_alike_without_addresses(machine):
    cards = machine("old-clinfo")
    assert [(card.total, card.address) for card in cards] == [
        (12168933376, "0000:03:00.0"),
        (12168933376, "0000:04:00.0"),
    ]


def test_nothing_is_one_line_that_says_what_to_pass(machine):
    assert machine("none") == []
    with pytest.raises(GgufError) as error:
        card_sizes([])
    assert str(error.value) == "no graphics card was found whose memory is known; pass its size: --vram-gib 16"


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    "junk", ["", "{", "[]", "null", '{"device_list": 3}', '{"device_list": [3, {}]}', "a,b,c,d\n", "[a/0]"]
)
def test_junk_is_ignored(tmp_path, name, junk):
    tree = DATA / name / "sysfs.json"
    assert isinstance(detect(sysfs(tmp_path, tree.read_text()), lambda _: junk), list)


def test_a_tool_that_is_missing_fails_or_hangs_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "TIMEOUT", 0.2)
    begun = time.monotonic()
    assert devices.run_tool([str(tmp_path / "no-such-tool")]) == ""
    assert devices.run_tool(["sh", "-c", "echo something; exit 3"]) == ""
    assert devices.run_tool(["sh", "-c", "echo something; exec sleep 30"]) == ""
    assert devices.run_tool(["printf", r"\377"]) == "\ufffd"
    assert time.monotonic() - begun < 20


# what an engine lists


@pytest.mark.parametrize(("text", "names"), LISTINGS)
def test_the_cards_of_a_listing(text, names):
    listed = parse_listing(text)
    assert [card.device for card in choose(listed)] == names


def test_the_launcher_knows_the_same_integrated_graphics():
    script = (ROOT / "release/run-nx2.sh").read_text()
    assert f"weak='{listing.WEAK}'" in script
    parts = script.split("integrated='")[1].split("'\n")[0], script.split("integrated+='")[1].split("'\n")[0]
    assert "".join(parts) == listing.INTEGRATED


def ask(text, *asked, drivers=()):
    return listed_cards("llama-server", asked, lambda command: text if command[1] == "--list-devices" else "", drivers)


def test_order_and_sizes_are_the_engines():
    cards, every = ask(f"{HEAD}  CUDA0: {RTX4090}\n  CUDA1: {RTX3060}\n")
    assert (card_sizes(cards), every) == ([24077 * MIB, 11909 * MIB], True)
    assert card_sizes(cards, free=True) == [23600 * MIB, 11700 * MIB]
    assert cards[0].name == "NVIDIA GeForce RTX 4090"


def test_asked_for_are_integrated_graphics_and_other_backends(caplog):
    caplog.set_level("INFO")
    text = f"{HEAD}  CUDA0: {RTX4090}\n  Vulkan0: {UHD}\n"
    cards, every = ask(text)
    assert ([card.device for card in cards], every) == (["CUDA0"], False)
    assert "not counted: Vulkan0 (Intel(R) UHD Graphics 770); -dev takes what it names" in caplog.text
    cards, every = ask(text, "Vulkan0", "CUDA0")
    assert ([card.device for card in cards], every) == (["Vulkan0", "CUDA0"], True)
    with pytest.raises(GgufError, match="-dev names CUDA1, which the engine does not list; it lists CUDA0, Vulkan0"):
        ask(text, "CUDA1")


@pytest.mark.parametrize(
    ("sizes", "expected"), [([8], [8, 24]), ([8, 8], [8, 24]), ([], [24]), ([8, 6], [24]), ([None], [24])]
)
def test_drivers_fill_a_size_that_the_engine_does_not_know(caplog, sizes, expected):
    text = f"{HEAD}  SYCL0: Intel(R) Arc(TM) A750 Graphics (0 MiB, 0 MiB free)\n  SYCL1: Big (24576 MiB, 1 MiB free)\n"
    drivers = [Card("Intel(R) Arc(TM) A750 Graphics", size and size * GIB) for size in sizes]
    cards, every = ask(text, drivers=lambda: [*drivers, Card("Another", GIB)])
    assert card_sizes(cards) == [size * GIB for size in expected]
    # what is left out has to be kept from the engine
    assert every == (len(expected) == 2)
    assert ("(SYCL0): nothing says how much memory it has, left out" in caplog.text) != every


@pytest.mark.parametrize("text", ["", "error: unknown argument: --list-devices\n", "CUDA0: x (1 MiB, 1 MiB free)\n"])
def test_what_is_no_listing(text):
    assert ask(text) is None


# which of the drivers' cards an engine would list

CARDS = {
    "small": Card("NVIDIA GeForce RTX 3060", 12 * GIB, None, "0000:01:00.0", "nvidia-smi", "GPU-1234"),
    "big": Card("NVIDIA GeForce RTX 4090", 24 * GIB, None, "0000:41:00.0", "nvidia-smi", "GPU-5678"),
    "amd": Card("AMD Radeon PRO W7900", 48 * GIB, None, "0000:51:00.0", "sysfs"),
    "amd2": Card("AMD Radeon PRO W7900", 48 * GIB, None, "0000:61:00.0", "sysfs"),
    "arc": Card("Intel(R) Arc(TM) A770 Graphics", 16 * GIB, None, "0000:71:00.0", "clinfo"),
    "arc2": Card("Intel card", 16 * GIB, None, "0000:81:00.0", "sysfs"),
}
PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("there", "environ", "expected"),
    [
        ("", {}, ""),
        ("big", {}, "big"),
        ("small big", PCI, "small big"),
        ("small big", PCI | {"CUDA_VISIBLE_DEVICES": "1,0"}, "big small"),
        ("small big", PCI | {"CUDA_VISIBLE_DEVICES": "1"}, "big"),
        ("small big", PCI | {"CUDA_VISIBLE_DEVICES": "1,7,0"}, "big"),
        ("small big", {"CUDA_VISIBLE_DEVICES": "GPU-56,GPU-12"}, "big small"),
        ("big", {"CUDA_VISIBLE_DEVICES": "0"}, "big"),
        ("amd amd2", {}, "amd amd2"),
        ("amd amd2", {"HIP_VISIBLE_DEVICES": "1"}, "amd2"),
        ("amd amd2", {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, "amd2"),
        ("arc arc2", {"ONEAPI_DEVICE_SELECTOR": "level_zero:1"}, "arc2"),
        ("arc arc2", {"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}, "arc arc2"),
        # one maker's are hidden
        ("small arc", {"CUDA_VISIBLE_DEVICES": "-1"}, "arc"),
        ("arc", {"GGML_VK_VISIBLE_DEVICES": "1"}, "arc"),
    ],
)
def test_cards_that_variables_show(there, environ, expected):
    assert visible([CARDS[name] for name in there.split()], environ) == [CARDS[name] for name in expected.split()]


@pytest.mark.parametrize(
    ("there", "environ", "message"),
    [
        (
            "small big",
            {},
            "RTX 3060 of 12.00 GiB, .* 24.00 GiB: in which order an engine lists them is not known; name",
        ),
        ("small big", {"CUDA_VISIBLE_DEVICES": "0"}, "which of them CUDA_VISIBLE_DEVICES=0 means is not known"),
        ("big", {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES hides all cards"),
        ("small arc", {}, "for which of them the engine is built is not known"),
        ("amd amd2", {"GGML_VK_VISIBLE_DEVICES": "1,0"}, "in which order"),
    ],
)
def test_what_cannot_be_known_without_the_engine(there, environ, message):
    with pytest.raises(GgufError, match=message):
        visible([CARDS[name] for name in there.split()], environ)


def test_commas_in_names_and_uuids(tmp_path):
    line = "NVIDIA A100, PCIe, 40960, 40000, 00000000:01:00.0, GPU-12\n"
    (card,) = detect(tmp_path, lambda command: line if command[0] == "nvidia-smi" else "")
    assert card == Card("NVIDIA A100, PCIe", 40960 * MIB, 40000 * MIB, "0000:01:00.0", "nvidia-smi", "GPU-12")

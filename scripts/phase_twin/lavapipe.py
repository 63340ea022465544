"""Mesa's Vulkan device that is the CPU, lavapipe: the tests of the Vulkan backend run on it."""

import os
from pathlib import Path

from .errors import UserError

FOLDERS = ("/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d")


def on_lavapipe() -> dict[str, str]:
    """Environment in which the engine sees lavapipe, and no card beside it; VK_DRIVER_FILES names another driver.

    Raises
    ------
    UserError
        if it is not installed.
    """
    # without the second the backend takes no device that is a CPU
    env = {"GGML_VK_VISIBLE_DEVICES": "0"}
    if os.environ.get("VK_DRIVER_FILES"):
        return env
    found = sorted(path for folder in FOLDERS for path in Path(folder).glob("lvp_icd*.json"))
    if not found:
        raise UserError("there is no lavapipe here; install it (Debian, Ubuntu: apt install mesa-vulkan-drivers)")
    return env | {"VK_DRIVER_FILES": str(found[0])}

"""The engine's backends that can measure: a build for each, and what an engine needs to see a card."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """`flags` are cmake's; `needs` is what to look for where the engine that was built sees no card."""

    flags: tuple[str, ...]
    needs: str = ""


CPU = "cpu"
BACKENDS = {
    CPU: Backend(("-DGGML_NATIVE=ON",)),
    # shared, as users build it: a static ggml-sycl does not hand its link flag for buffers above 4 GiB to the programs
    "sycl": Backend(
        (
            "-DGGML_SYCL=ON",
            "-DCMAKE_CXX_COMPILER=icpx",
            "-DCMAKE_C_COMPILER=icx",
            "-DBUILD_SHARED_LIBS=ON",
            "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
        ),
        "oneAPI's setvars.sh must be sourced",
    ),
    "cuda": Backend(("-DGGML_CUDA=ON",), "nvidia-smi must list it, with a driver for the CUDA toolkit of the build"),
    "vulkan": Backend(
        ("-DGGML_NATIVE=ON", "-DGGML_VULKAN=ON"),
        "vulkaninfo --summary must list it; GGML_VK_VISIBLE_DEVICES=0 takes one that is a CPU",
    ),
}
# those that measure on a card
CARDS = tuple(name for name in BACKENDS if name != CPU)

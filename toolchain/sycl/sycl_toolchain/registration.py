"""The code that makes kernels known to the SYCL runtime; icpx has its linker write the like."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .spirv import entry_points

# Mirrors sycl_device_binaries_struct and what it points to in libsycl.so.9 (compiler/..., device_binary_image): another
# major version has another layout. An own name for the function avoids a clash with a declaration of it.
PREAMBLE = """\
#pragma once
namespace sycl_toolchain {
struct entry { void * address; const char * name; unsigned long size; int flags, reserved; };
struct image {
    unsigned short version;
    unsigned char kind, format;
    const char * target, * compile_options, * link_options;
    const unsigned char * begin, * end;
    const entry * entries_begin, * entries_end;
    const void * properties_begin, * properties_end;
};
struct library { unsigned short version, count; const image * images; const void * entries_begin, * entries_end; };
extern "C" void register_library(const library *) __asm__("__sycl_register_lib");
extern "C" void unregister_library(const library *) __asm__("__sycl_unregister_lib");
namespace {
"""
# version 3 of the record, SYCL, SPIR-V
IMAGE = '    {{ 3, 4, 2, "spir64", "", "", code{0}, code{0} + sizeof(code{0}), entries{0}, entries{0} + {1}, 0, 0 }},'
REGISTER = """\
const library kernels = {{ 1, {count}, images, 0, 0 }};
__attribute__((constructor)) void at_start() {{ register_library(&kernels); }}
__attribute__((destructor)) void at_exit() {{ unregister_library(&kernels); }}
}}
}}
"""


def registration_code(modules: Mapping[Path, Sequence[str]]) -> str:
    """Return C++ code that embeds SPIR-V modules and registers them at start-up; none where there is no module.

    Parameters
    ----------
    modules
        file -> names of its kernels. The order of the code is that of the names, so that it does not depend on the
        order of the files.
    """
    if not modules:
        return ""
    lines = []
    images = []
    for number, (path, names) in enumerate(sorted(modules.items(), key=lambda item: list(item[1]))):
        lines += [f"alignas(16) const unsigned char code{number}[] = {{", f'#embed "{path}"', "};"]
        lines += [f"const entry entries{number}[] = {{"]
        lines += [f'    {{ 0, "{name}", 0, 0, 0 }},' for name in names]
        lines += ["};"]
        images.append(IMAGE.format(number, len(names)))
    table = "\n".join(["const image images[] = {", *images, "};"])
    return PREAMBLE + "\n".join(lines) + "\n" + table + "\n" + REGISTER.format(count=len(modules))


def read_modules(folder: Path) -> dict[Path, list[str]]:
    """Return the SPIR-V modules in `folder` with the names of their kernels; one without kernels is left out."""
    found = {path: entry_points(path.read_bytes()) for path in folder.glob("*.spv")}
    return {path: names for path, names in found.items() if names}

"""What a command line for the compiler asks for, and which options each half of a compilation gets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ToolchainError

SOURCE_SUFFIXES = (".cpp", ".cc", ".cxx")
# options whose value is the next argument; where it may also be attached, both forms are understood
WITH_VALUE = ("-o", "-I", "-D", "-U", "-L", "-l", "-x", "-isystem", "-include", "-MF", "-MT", "-MQ", "-Xs", "-Xclang")
ATTACHABLE = ("-o", "-I", "-D", "-U", "-L", "-l", "-x", "-isystem", "-MF", "-MT", "-MQ")
# what the device half needs as well: where and how to read, and how to compute
DEVICE_VALUES = ("-I", "-D", "-U", "-isystem")
DEVICE_PREFIXES = ("-std=", "-Wno-", "-ffast-math", "-fno-fast-math", "-ffp-", "-O")
GENERIC_ONLY = "kernels are compiled to generic SPIR-V only"
REFUSED = {
    "-fsycl-targets=": GENERIC_ONLY,
    "-Xsycl-target-backend": GENERIC_ONLY,
    "-fsycl-device-only": "both halves are made at once",
    "-include": "the device half would not see the file",
}


@dataclass(frozen=True)
class Option:
    """One option and its value, if it takes one; a plain argument has the empty name."""

    name: str
    value: str | None = None
    attached: bool = False

    @property
    def words(self) -> list[str]:
        """The option as arguments."""
        if self.value is None:
            return [self.name]
        return [self.name + self.value] if self.attached or not self.name else [self.name, self.value]


@dataclass(frozen=True)
class Compilation:
    """One source file to be compiled to one object file, with SYCL kernels in it."""

    source: Path
    object: Path
    dependency_file: Path | None
    dependency_target: str
    device_options: list[str] = field(default_factory=list)
    host_options: list[str] = field(default_factory=list)


def split_options(arguments: Sequence[str]) -> list[Option]:
    """Cut a command line into its options.

    Raises
    ------
    ToolchainError
        if the value of the last option is missing.
    """
    options = []
    rest = iter(arguments)
    for argument in rest:
        if argument in WITH_VALUE:
            value = next(rest, None)
            if value is None:
                raise ToolchainError(f"{argument} needs a value")
            options.append(Option(argument, value))
            continue
        if not argument.startswith("-") or argument == "-":
            options.append(Option("", argument))
            continue
        # the longest name wins: -isystem is no -i, -MF no -M
        name = max((name for name in ATTACHABLE if argument.startswith(name)), key=len, default="")
        options.append(Option(name, argument[len(name) :], attached=True) if name else Option(argument))
    return options


def uses_sycl(arguments: Sequence[str]) -> bool:
    """Whether there may be kernels."""
    return "-fsycl" in arguments and "-fno-sycl" not in arguments


def compiles(arguments: Sequence[str]) -> bool:
    """Whether an object file is to be made, not a program, not preprocessed text."""
    return "-c" in arguments and "-E" not in arguments


def parse_compilation(arguments: Sequence[str]) -> Compilation:
    """Read the command line of a compilation (-fsycl -c).

    Raises
    ------
    ToolchainError
        naming the option that is not supported, or what the command line lacks.
    """
    options = split_options(arguments)
    for option in options:
        for name, reason in REFUSED.items():
            if option.name.startswith(name):
                raise ToolchainError(f"{option.name} is not supported with -fsycl: {reason}")
    sources = [option.value for option in options if not option.name]
    if len(sources) != 1 or not str(sources[0]).endswith(SOURCE_SUFFIXES):
        found = ", ".join(map(str, sources)) or "none"
        raise ToolchainError(f"-fsycl -c takes one source file ({' '.join(SOURCE_SUFFIXES)}), found: {found}")
    source = Path(str(sources[0]))
    values = {option.name: option.value for option in options if option.value is not None}
    output = values.get("-o") or source.with_suffix(".o").name
    dependencies = None
    if any(option.name in ("-MD", "-MMD") for option in options):
        dependencies = Path(values.get("-MF") or Path(output).with_suffix(".d"))
    own = ("", "-o", "-c", "-MD", "-MMD", "-MF", "-MT", "-MQ")
    for_device = [option for option in options if is_for_device(option)]
    for_host = [option for option in without_sycl_options(options) if option.name not in own]
    return Compilation(
        source=source,
        object=Path(output),
        dependency_file=dependencies,
        dependency_target=values.get("-MT") or values.get("-MQ") or output,
        device_options=[word for option in for_device for word in device_words(option)],
        host_options=[word for option in for_host for word in option.words],
    )


def is_for_device(option: Option) -> bool:
    """Whether the device half gets the option."""
    return option.name in DEVICE_VALUES or option.name.startswith(DEVICE_PREFIXES)


def device_words(option: Option) -> list[str]:
    """Return the option as the device front end takes it: it knows no GNU dialects."""
    return [option.name.replace("-std=gnu++", "-std=c++")] if option.name.startswith("-std=") else option.words


def without_sycl_options(options: Sequence[Option]) -> list[Option]:
    """Return the options without those that only a SYCL compiler knows."""
    return [
        option for option in options if option.name != "-Xs" and not option.name.startswith(("-fsycl", "-fno-sycl"))
    ]


def link_options(arguments: Sequence[str]) -> list[str]:
    """Return the options of a link command as a C++ compiler takes them."""
    # -Xs hands a word to the device compiler of a card
    options = without_sycl_options(split_options(arguments))
    return [word for option in options if not option.name.startswith("-ze-") for word in option.words]

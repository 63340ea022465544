"""Write variant 0 of a nested twin as a file of its own, from the model that variant 1 is."""

from pathlib import Path
from typing import Any

from phase_twin.errors import UserError
from phase_twin.nested import base_file_type, read_variants
from phase_twin.rule import Progress, run_rule
from prune_dual import KEY_FILE_TYPE, TYPE_KEYS, GgufError, encode_kv, type_kv, write_gguf


def take_base(model_path: Path, out: Path) -> None:
    """Write the bases of all tensors of IQ4_A770, and all else as it is."""
    try:
        base, model = read_variants([model_path])
        kv = [entry for name, entry in model.kv.items() if name not in {*TYPE_KEYS, KEY_FILE_TYPE}]
        kv += type_kv(tensor.type for tensor in base.tensors)
        if (file_type := base_file_type(model)) is not None:
            kv.append(encode_kv(KEY_FILE_TYPE, "u32", file_type))
        with Progress("base") as bar:
            write_gguf(out, kv, base.tensors, alignment=model.alignment, force=True, progress=bar.show)
    except GgufError as error:
        raise UserError(str(error)) from error


def main(snakemake: Any) -> None:
    """Map the rule to the function above."""
    take_base(Path(snakemake.input.model), Path(snakemake.output.gguf))


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821

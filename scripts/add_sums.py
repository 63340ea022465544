"""Add the parts of an importance matrix, and those of the covariances: both files hold sums and the counts of them.

The sums of a single run differ from these by the rounding of 32-bit floats only.

snakemake.input: lists of parts by name; snakemake.output: what each list adds up to.
"""

from collections.abc import Sequence
from typing import Any

import gguf
import numpy as np

from phase_twin.errors import UserError
from phase_twin.files import atomic_output, write_digest
from phase_twin.rule import Progress, run_rule

CHUNKS = "imatrix.chunk_count"


def add_files(parts: Sequence[str], target: str) -> None:
    """Write the GGUF `target`, whose tensors are those of `parts` added up, in 64 bits; the chunks are added as well.

    Raises
    ------
    UserError
        naming the first file and tensor in which the parts do not match.
    """
    readers = [gguf.GGUFReader(part) for part in parts]
    tables = [{tensor.name: tensor for tensor in reader.tensors} for reader in readers]
    for part, table in zip(parts, tables, strict=True):
        if different := tables[0].keys() ^ table.keys():
            raise UserError(
                f"{part}: has other tensors than {parts[0]}, such as {min(different)}; make the parts again"
            )
    with atomic_output(target) as partial, Progress("add") as bar:
        # what is added waits in a file: the covariances of a large model do not fit in memory
        writer = gguf.GGUFWriter(partial, arch="", use_temp_file=True)
        writer.kv_data[0].clear()
        for name, field in readers[0].fields.items():
            if name.startswith("GGUF."):
                continue
            value = field.contents()
            if name == CHUNKS:
                value = sum(int(reader.fields[CHUNKS].contents()) for reader in readers)
            kind = field.types[0]
            writer.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
        for number, (name, first) in enumerate(tables[0].items(), 1):
            shapes = {tuple(table[name].shape) for table in tables}
            if len(shapes) > 1:
                raise UserError(f"{parts[0]}: {name} has another shape in other parts; make the parts again")
            total = sum(np.asarray(table[name].data, dtype=np.float64) for table in tables)
            writer.add_tensor(name, total.astype(np.float32), raw_shape=first.data.shape)
            bar.show(number, len(tables[0]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    for name, parts in snakemake.input.items():
        add_files(parts, snakemake.output[name])
    write_digest(snakemake.output.imatrix, snakemake.output.digest)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821

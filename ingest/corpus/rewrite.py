"""Replace columns of a finished clip file; its audio is copied as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA, clip_writer
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.locks import maintenance


def replace_columns(uri: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write the clip file ``uri`` again with these columns, one value for each row: atomically, row group by row group,
    in the layout of `Corpus.write_clips`. Columns that an older version did not write are null, and those that this
    version does not know are left out. Raises ValueError where a column has too many or too few values.

    A file in a pack becomes one by itself, which goes before it until the corpus is compacted again."""
    corpus_uri = uri.rsplit("/", 3)[0]
    with maintenance(corpus_uri), overlay.open_file(uri) as file, storage.atomic_file(uri) as temporary:
        parquet = pq.ParquetFile(file)
        for name, values in columns.items():
            if len(values) != parquet.metadata.num_rows:
                raise ValueError(f"{uri}: {len(values)} values of {name} for {parquet.metadata.num_rows} clips")
        with clip_writer(temporary) as writer:
            first = 0
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group)
                stop = first + len(table)
                new = {
                    name: pa.array(values[first:stop], CLIP_SCHEMA.field(name).type) for name, values in columns.items()
                }
                writer.write_table(_as_clips({name: table[name] for name in table.schema.names} | new, len(table)))
                first = stop


def _as_clips(columns: dict[str, Any], num_rows: int) -> pa.Table:
    arrays = [columns.get(field.name, pa.nulls(num_rows, field.type)) for field in CLIP_SCHEMA]
    arrays = [array.cast(field.type) for array, field in zip(arrays, CLIP_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=CLIP_SCHEMA)

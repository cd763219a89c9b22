"""Read the weights in a CTranslate2 ``model.bin``, the format of the judge's Whisper, without CTranslate2, and write a
part of them, for a machine that needs no more.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from triforce.ingest import storage

VERSION = 6
"""Version of the format that is read: CTranslate2 has written it since 2021."""
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
"""Types by their number in the file."""


def read_tensors(path: str | Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names.

    The file is a list of variables: each a name, a shape, a type and the bytes. Raises ValueError for a file of another
    version or with a type that is not in `DTYPES`.
    """
    found = {}
    with Path(path).open("rb") as file:
        version = _number(file, "I")
        if version != VERSION:
            raise ValueError(f"{path}: format {version}; this reads {VERSION}, convert the model again")
        _text(file), _number(file, "I")  # the kind of model and the revision of its layout
        for _ in range(_number(file, "I")):
            name = _text(file)
            shape = [_number(file, "I") for _ in range(_number(file, "B"))]
            dtype, num_bytes = _number(file, "B"), _number(file, "I")
            if not name.startswith(prefix):
                file.seek(num_bytes, 1)
            elif dtype >= len(DTYPES):
                raise ValueError(f"{path}: {name} is of type {dtype}; convert the model with --quantization float16")
            else:
                found[name[len(prefix) :]] = np.frombuffer(file.read(num_bytes), DTYPES[dtype]).reshape(shape)
    return found


def copy_tensors(source: str | Path, target: str | Path, prefix: str) -> None:
    """Write the tensors of ``source`` whose names begin with ``prefix`` to ``target``, in the same format: of tiny.en,
    ``encoder/`` is 16 MB of 76. It is for `read_tensors`; CTranslate2 itself asks for the whole model.
    """
    tensors = read_tensors(source, prefix)
    with storage.atomic_file(target) as temporary, Path(temporary).open("wb") as file:
        file.write(struct.pack("<I", VERSION) + _packed("WhisperSpec") + struct.pack("<II", 3, len(tensors)))
        for name, tensor in tensors.items():
            shape = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
            kind = next(i for i, dtype in enumerate(DTYPES) if tensor.dtype == dtype)
            file.write(_packed(prefix + name) + shape + struct.pack("<BI", kind, tensor.nbytes) + tensor.tobytes())
        file.write(struct.pack("<I", 0))  # no second names


def _packed(text: str) -> bytes:
    """Return a string as the file holds it: its length with a closing 0 byte, and both."""
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def _number(file: BinaryIO, code: str) -> int:
    code = f"<{code}"
    return struct.unpack(code, file.read(struct.calcsize(code)))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "H"))[:-1].decode()

"""Arrays of an HDF5 file that lie in it, every number of them: no link, no other file, no plugin, no size only claimed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import one_line
from kernreg.npzfile import DEFLATE_LIMIT

# deflate, shuffle, fletcher32, szip, nbit, scaleoffset, and LZF, which comes with h5py. For any other one HDF5 would look for a
# library in its plugin folder, and load it.
FILTERS = (1, 2, 3, 4, 5, 6, 32000)


def own_array(group: Any, name: str, file_bytes: int) -> NDArray[Any]:
    """The numbers of the array `name` of an h5py file or group.

    Args:
        group: an h5py File or Group.
        name: of a member of it.
        file_bytes: size of the file: no array without compression is larger.

    Raises:
        ValueError: says which of these it is not, in one line.
        OSError, RuntimeError: HDF5 cannot read it.
    """
    dataset = own_member(group, name)
    shown = one_line(name)
    if not hasattr(dataset, "shape") or dataset.shape is None:
        raise ValueError(f"{shown} is not an array")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{shown} keeps its numbers in other files")
    if dataset.dtype.kind not in "uifb":
        raise ValueError(f"{shown} has dtype {dataset.dtype}, not real numbers")
    _require_stored(dataset, shown, file_bytes)
    return np.asarray(dataset[()])


def own_member(group: Any, name: str) -> Any:
    """The member `name` of an h5py file or group, which is no link to somewhere else. Raises ValueError."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{one_line(name)} is not there, or a link to somewhere else")
    return group[name]


def _require_stored(dataset: Any, name: str, file_bytes: int) -> None:
    plist, item = dataset.id.get_create_plist(), dataset.dtype.itemsize
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    for code in filters:
        if code not in FILTERS:
            raise ValueError(
                f"{name} needs the HDF5 filter {code}, a plugin: save it with gzip or uncompressed"
            )
    claimed, stored = math.prod(dataset.shape) * item, min(dataset.id.get_storage_size(), file_bytes)
    if dataset.chunks:
        # HDF5 unpacks whole chunks, however little of them the array has
        chunks = math.prod(
            -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        )
        claimed = chunks * math.prod(dataset.chunks) * item
        if dataset.id.get_num_chunks() != chunks and stored * DEFLATE_LIMIT >= claimed:
            raise ValueError(f"{name} was never written to its end")
    if stored * (DEFLATE_LIMIT if filters else 1) < claimed:
        raise ValueError(f"{name} claims {claimed} bytes and stores {stored}")

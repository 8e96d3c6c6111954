"""A peer at its best: the fastest of its settings for a case."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from measuring.cases import Case
from measuring.machine import available_bytes
from measuring.rates import calls_for
from peers.client import Peer, PeerError

TENSORS = (
    24  # covariances of a batch that neural-tangents holds at once: measured, 3 GB for 16 pairs of 32×32
)

LONG = 2.0  # seconds of a call that need few repeats


def best_settings(case: Case, peer: Peer, hasty: bool) -> tuple[dict[str, Any], float]:
    """The fastest setting for K(x, z) of batch × batch pairs, and the seconds of a warm call.

    The best of the timings counts. Settings that might not fit half of the free memory are left out.
    Hasty: one short timing.

    Raises:
        PeerError: none ran.
    """
    best, fastest = None, 0.0
    for settings in case.settings:
        batch = settings["batch"]
        if TENSORS * batch**2 * pair_bytes(case, peer.dtype) > available_bytes() / 2:
            note(case, peer, settings, "left out, too large for the free memory")
            continue
        try:
            peer.prepare(case.layers, case.kernel, case.images(batch, 0), case.images(batch, 1), settings)
            once = peer.seconds(1)
            calls = calls_for(0.5, once)
            again = 0 if hasty else 1 if once > LONG else 2
            seconds = min([once, *(peer.seconds(calls) / calls for _ in range(again))])
        except PeerError as error:
            if not peer.alive:
                raise
            note(case, peer, settings, str(error))
            continue
        rate = batch**2 * case.updates / seconds
        note(case, peer, settings, f"{rate:.3g} updates/s, {seconds:.2g} s")
        if rate > fastest:
            best, fastest = (settings, seconds), rate
    if best is None:
        raise PeerError(f"{case.name}: no setting of {peer.name} {peer.dtype} ran")
    return best


def note(case: Case, peer: Peer, settings: dict[str, Any], text: str) -> None:
    words = " ".join(f"{key} {value}" for key, value in settings.items())
    print(f"{case.name}: {peer.name} {peer.dtype} {words}: {text}", file=sys.stderr, flush=True)


def pair_bytes(case: Case, dtype: str) -> int:
    """Of the covariances of one pair in one layer, as a peer keeps them."""
    return case.updates // case.architecture.depth * np.dtype(dtype).itemsize

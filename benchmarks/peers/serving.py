"""The worker's side of the conversation: one JSON object a line on stdin, one answer a line on stdout.

Shared by the workers, and run in the peers' environments: the standard library and NumPy only.

    {"op": "prepare", "layers": […], "kernel": "ntk", "x": PATH, "z": PATH or null, "settings": {…}}
                                     → {"seconds": of the first call}
    {"op": "time", "calls": 3}       → {"seconds": of all calls}
    {"op": "result", "path": PATH}   → {} and K(x, z) in PATH
    {"op": "info"}                   → {"versions": {…}}

A failure is answered {"error": "one line"}. The end of stdin is the end of the worker.
"""

import json
import os
import sys
import time

import numpy as np


def serve(prepare, versions):
    """Answer until stdin ends.

    Args:
        prepare: (layers, kernel, x, z or None, settings) → a function without arguments that computes K(x, z)
            once more and returns when it is done; np.asarray of what it returns is the kernel.
        versions: {"package": "version"}.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the peer prints goes to stderr, the conversation stays clean
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {}
            if request["op"] == "prepare":
                run = None  # let go of the old inputs first
                x, z = (None if request[key] is None else np.load(request[key]) for key in ("x", "z"))
                run = prepare(request["layers"], request["kernel"], x, z, request["settings"])
                answer["seconds"] = clock(run, 1)
            elif request["op"] == "time":
                answer["seconds"] = clock(run, request["calls"])
            elif request["op"] == "result":
                np.save(request["path"], np.asarray(run()))
            elif request["op"] == "info":
                answer["versions"] = versions
            else:
                raise ValueError(f"unknown op {request['op']!r}")
        except Exception as error:  # the driver decides; a batch too large is one of the expected ones
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


def clock(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start

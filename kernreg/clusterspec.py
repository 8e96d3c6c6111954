"""What `--cluster` says: which workers to use, or how to start them. Read and checked before anything is started."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernreg.errors import KernregError
from kernreg.plan import parse_bytes

BATCH = ("slurm", "pbs", "lsf", "sge")
FORMS = (
    "local, local:4, slurm, pbs, lsf, sge, the address of a scheduler (tcp://host:8786), "
    "its scheduler file (.json), or a file of settings (.toml)"
)
# Seconds until a first worker must be there; a batch queue may take its time.
PATIENCE = {"local": 60.0, "address": 60.0} | dict.fromkeys(BATCH, 3600.0)
# Of one job where neither the file nor the user's own jobqueue.yaml says anything.
CORES, MEMORY = 4, "8GiB"
ADAPTIVE = (1, 8)

_NUMBER, _TEXT, _TEXTS = "a whole number ≥ 1", "a text", "a list of texts"
_SCALE = {"workers": _NUMBER, "adaptive": "a list [least, most] of workers, 1 ≤ least ≤ most"}
_ALL = {"kind": _TEXT, "timeout": "a number of seconds > 0"}
_JOB = {
    "cores": _NUMBER,
    "memory": "an amount of memory like 64GiB",
    "gpus": _NUMBER,
    "queue": _TEXT,
    "partition": _TEXT,
    "account": _TEXT,
    "walltime": _TEXT,
    "job_extra_directives": _TEXTS,
    "prologue": _TEXTS,
    "interface": _TEXT,
    "local_directory": _TEXT,
    "log_directory": _TEXT,
    "python": _TEXT,
}
_KEYS = {
    "local": _ALL | _SCALE | {"threads": _NUMBER},
    "address": _ALL | {"address": _TEXT},
    "slurm": _ALL | _SCALE | _JOB,
    "lsf": _ALL | _SCALE | _JOB,
} | dict.fromkeys(("pbs", "sge"), _ALL | _SCALE | _JOB | {"resource_spec": _TEXT})


@dataclass(frozen=True)
class Spec:
    """Which workers.

    Attributes:
        kind: "local", "address", or a batch system of `BATCH`.
        address: of the scheduler of kind "address".
        workers: least and most of them; None: as many as suit this machine.
        timeout: seconds until a first worker must be there, and for which there may be none.
        settings: of a job or of the local workers, by the names of docs/dask.md.
    """

    kind: str
    address: str = ""
    workers: tuple[int, int] | None = None
    timeout: float = 60.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the scheduler {self.address}" if self.kind == "address" else f"a cluster of kind {self.kind}"


def parse(text: str) -> Spec:
    """What stands after `--cluster`: see `FORMS`.

    Raises:
        KernregError: none of these forms; a file that is not there or not readable; an unknown key or a wrong value, by name.
    """
    if text in _KEYS and text != "address":
        return _spec({"kind": text}, "--cluster")
    if match := re.fullmatch(r"local:(\d+)", text):
        return _spec({"kind": "local", "workers": int(match[1])}, f"--cluster {text}")
    if text.endswith(".toml"):
        return _read(Path(text))
    if text.endswith(".json"):
        return Spec("address", _address_in(Path(text)), timeout=PATIENCE["address"])
    if re.fullmatch(r"[a-z]+://.+", text) or re.fullmatch(r"[\w.-]+:\d+", text):
        return Spec("address", text if "://" in text else f"tcp://{text}", timeout=PATIENCE["address"])
    raise KernregError(f"--cluster {text}: a cluster is {FORMS}")


def _read(path: Path) -> Spec:
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KernregError(f"--cluster {path}: {error.strerror}; a cluster is {FORMS}") from None
    except ValueError as error:  # TOML that is none, text that is not UTF-8
        raise KernregError(f"{path} is not TOML: {error}") from None
    return _spec(given, str(path))


def _spec(given: dict[str, Any], where: str) -> Spec:
    kind = given.get("kind")
    if kind not in _KEYS:
        raise KernregError(f"{where}: kind is one of {', '.join(_KEYS)}, not {kind!r}")
    for key, value in given.items():
        if key not in _KEYS[kind]:
            raise KernregError(
                f"{where}: kind {kind} has no key {key!r}; it has {', '.join(sorted(_KEYS[kind]))}"
            )
        _require(key, value, _KEYS[kind][key], where)
    if {"workers", "adaptive"} <= given.keys() or {"queue", "partition"} <= given.keys():
        raise KernregError(
            f"{where}: give one of workers and adaptive, and one of queue and its other name, partition"
        )
    if kind == "address" and "address" not in given:
        raise KernregError(f"{where}: kind address needs an address such as tcp://host:8786")
    settings = {
        key: value for key, value in given.items() if key not in (*_ALL, *_SCALE, "address", "partition")
    }
    if "partition" in given:
        settings["queue"] = given["partition"]
    timeout = float(given.get("timeout", PATIENCE[kind]))
    return Spec(kind, given.get("address", ""), _workers(given, kind), timeout, settings)


def _workers(given: Mapping[str, Any], kind: str) -> tuple[int, int] | None:
    if "workers" in given:
        return given["workers"], given["workers"]
    if "adaptive" in given:
        least, most = given["adaptive"]
        return least, most
    return ADAPTIVE if kind in BATCH else None


def _require(key: str, value: Any, what: str, where: str) -> None:
    if what == _NUMBER:
        right = _is_whole(value) and value >= 1
    elif what == _TEXT:
        right = isinstance(value, str) and value != ""
    elif what == _TEXTS:
        right = isinstance(value, list) and all(isinstance(line, str) for line in value)
    elif key == "adaptive":
        right = isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value))
        right = right and 1 <= value[0] <= value[1]
    elif key == "timeout":
        right = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    else:
        parse_bytes(value)  # says itself what is wrong
        right = True
    if not right:
        raise KernregError(f"{where}: {key} must be {what}, not {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _address_in(path: Path) -> str:
    """Of a scheduler, from the file that it wrote."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["address"])
    except OSError as error:
        raise KernregError(
            f"--cluster {path}: {error.strerror}; start one with dask scheduler --scheduler-file {path}"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise KernregError(f"{path} is no scheduler file of Dask: it names no address") from None

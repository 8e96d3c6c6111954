"""A Dask cluster, and the one door to dask: workers started on this machine or by a batch system, or those of a scheduler."""

from __future__ import annotations

import contextlib
import importlib
import logging
import pkgutil
import re
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from kernreg import __version__
from kernreg.clusterspec import CORES, MEMORY, Spec, parse
from kernreg.errors import KernregError
from kernreg.kernels.lanes import LANES_PER_GPU
from kernreg.kernels.threads import count as cores_here
from kernreg.plan import parse_bytes
from kernreg.preload import visible_gpus
from kernreg.progress import Interruption

if TYPE_CHECKING:
    from distributed import Client

FATAL_DEATHS = 3  # workers that die with a tile in hand, until our schedulers give it up
LOCAL_WORKERS = 4  # at most, if nothing is said and there is no GPU
RESULT_SECONDS = 60.0  # for the answer of a task that has ended to arrive
CLOSING_SECONDS = 10.0
QUIET = logging.CRITICAL
SCHEDULING = {
    "distributed.scheduler.allowed-failures": FATAL_DEATHS - 1,
    # A worker gets its next tile when it has done one: what waits at a worker that dies would count as deaths of its own.
    "distributed.scheduler.worker-saturation": 1.0,
}
CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}
QUEUE = {"slurm": "squeue", "pbs": "qstat", "lsf": "bjobs", "sge": "qstat"}

_patience: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


class WorkersDied(KernregError):
    """A task whose workers died, one after the other."""


class SchedulerLost(KernregError):
    """The scheduler is gone, and with it what it knew of tasks."""

    def __init__(self, reason: str = "") -> None:
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"the scheduler of the cluster is gone{why}; finished tiles are kept: the same command goes on, with --cluster or "
            "without"
        )


@contextmanager
def connect(spec: str | Spec, note: Callable[[str], object] = lambda text: None) -> Iterator[Client]:
    """A client of the workers that `spec` names, once there is one; those that were started for it end with it.

    What Dask logs meanwhile is kept for the line of an error.

    Args:
        spec: see `kernreg.clusterspec.parse`.
        note: told what is waited for, and the address of the dashboard.

    Raises:
        KernregError: dask is not installed, no such cluster, no scheduler, no worker in time, one without this kernreg.
        KeyboardInterrupt: SIGINT or SIGTERM while waiting for a worker.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    distributed = _library("distributed")
    with ExitStack() as stack:
        heard = stack.enter_context(_overheard())
        stack.enter_context(_library("dask").config.set(SCHEDULING))
        place = spec.address if spec.kind == "address" else stack.enter_context(_started(spec, distributed))
        client = stack.enter_context(_client(distributed, place, spec))
        _await_worker(client, spec, heard, note)
        _require_kernreg(client)
        _patience[client] = spec.timeout
        note(f"{worker_count(client)} workers; dashboard: {client.dashboard_link}")
        yield client


def worker_count(client: Client) -> int:
    """Workers that the scheduler knows; 0 if it does not answer."""
    try:
        return len(client.nthreads())
    except Exception:  # a scheduler that is gone says so in many ways; its futures then tell
        return 0


def patience(client: Client) -> float:
    """Seconds for which a run may be without any worker."""
    return _patience.get(client, 60.0)


def result(future: Any) -> Any:
    """Of a task that has ended.

    Raises:
        WorkersDied, SchedulerLost: as they say.
        TimeoutError: it is lost, and being computed again.
        Exception: what the task raised.
    """
    if future.status == "cancelled":
        raise SchedulerLost
    try:
        return future.result(timeout=RESULT_SECONDS)
    except _library("distributed").KilledWorker as error:
        raise WorkersDied(str(error.last_worker.address)) from None
    except _library("distributed").CancelledError:
        raise SchedulerLost from None


@contextmanager
def asking() -> Iterator[None]:
    """Around what is asked of a scheduler: when it does not answer, which it says in many ways, that is `SchedulerLost`."""
    try:
        yield
    except (KernregError, NotImplementedError):
        raise
    except Exception as error:
        raise SchedulerLost(f"{type(error).__name__}: {_line(error)}") from None


@contextmanager
def _started(spec: Spec, distributed: Any) -> Iterator[Any]:
    cluster = _local(spec, distributed) if spec.kind == "local" else _batch(spec)
    try:
        yield cluster
    finally:
        with contextlib.suppress(Exception):  # its processes end with this one
            cluster.close(timeout=CLOSING_SECONDS)


def _local(spec: Spec, distributed: Any) -> Any:
    gpus = visible_gpus()
    least, most = spec.workers or (len(gpus) or min(cores_here(), LOCAL_WORKERS),) * 2
    threads = spec.settings.get("threads", max(1, cores_here() // most))
    cluster = distributed.LocalCluster(
        n_workers=least,
        threads_per_worker=_tasks_at_once(bool(gpus)),
        dashboard_address="127.0.0.1:0",
        memory_limit=None,
        silence_logs=QUIET,
        preload=["kernreg.preload"],
        env={"KERNREG_THREADS": str(threads)},
    )
    if least < most:
        cluster.adapt(minimum=least, maximum=most)
    return cluster


def _batch(spec: Spec) -> Any:
    kind = spec.kind
    if shutil.which(SUBMIT[kind]) is None:
        raise KernregError(
            f"--cluster {kind} needs {SUBMIT[kind]}, which is not on this machine: run the command on a login node, "
            "or name the address of a scheduler"
        )
    made = getattr(_library("dask_jobqueue"), CLUSTERS[kind])
    try:
        cluster = made(**job_settings(spec, _library("dask").config.get(f"jobqueue.{kind}")))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise KernregError(f"{spec} cannot be started: {_line(error)}") from None
    least, most = spec.workers or (1, 1)
    cluster.adapt(minimum=least, maximum=most)  # also where they are equal: it replaces jobs that have ended
    return cluster


def job_settings(spec: Spec, defaults: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a cluster class of dask-jobqueue.

    One process for each GPU, else one for all cores: kernels share a tile between threads of their own, and Dask's only tell how
    many tiles a process may hold.

    Args:
        spec: of a batch system.
        defaults: the user's jobqueue.yaml for it.
    """
    given, kind = dict(spec.settings), spec.kind
    gpus = given.pop("gpus", 0)
    cores = given.pop("cores", None) or defaults.get("cores") or CORES
    memory = parse_bytes(given.pop("memory", None) or defaults.get("memory") or MEMORY)
    processes, directives = max(gpus, 1), list(given.pop("job_extra_directives", []))
    if "account" in given and kind in ("lsf", "sge"):
        given["project"] = given.pop("account")
    if gpus and kind == "pbs":
        given.setdefault("resource_spec", f"select=1:ncpus={cores}:mem={memory}b:ngpus={gpus}")
    elif gpus:
        request = {"slurm": f"--gres=gpu:{gpus}", "lsf": f'-gpu "num={gpus}"', "sge": f"-l gpu={gpus}"}
        directives.append(request[kind])
    prologue = [*given.pop("prologue", []), f"export KERNREG_THREADS={max(1, cores // processes)}"]
    extra = ["--nthreads", str(_tasks_at_once(gpus > 0)), "--preload", "kernreg.preload"]
    return given | {
        "cores": cores,
        "memory": f"{memory}B",
        "processes": processes,
        "job_extra_directives": directives,
        "job_script_prologue": prologue,
        "worker_extra_args": extra,
        "scheduler_options": {"dashboard_address": ":0"},
        "silence_logs": QUIET,
    }


def _tasks_at_once(gpu: bool) -> int:
    """Of one process: the lanes of a GPU, and a tile that is committed meanwhile; on a CPU a tile takes much longer than that."""
    return LANES_PER_GPU + 1 if gpu else 1


@contextmanager
def _client(distributed: Any, place: Any, spec: Spec) -> Iterator[Client]:
    try:
        client = distributed.Client(place, timeout=min(spec.timeout, 30.0), set_as_default=False)
    except (OSError, ValueError) as error:
        raise KernregError(
            f"no scheduler answers at {place} ({_line(error)}): start one with `dask scheduler`, or check address and firewall"
        ) from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.close(timeout=CLOSING_SECONDS)


def _await_worker(client: Client, spec: Spec, heard: _Overheard, note: Callable[[str], object]) -> None:
    started, told = time.monotonic(), False
    with Interruption(lambda text: None) as interruption:
        while not worker_count(client):
            waited = time.monotonic() - started
            if interruption.requested:
                raise KeyboardInterrupt
            if heard.submission:
                raise KernregError(f"{spec} starts no job: {heard.submission}")
            if waited > spec.timeout:
                raise KernregError(f"{spec} has no worker after {spec.timeout:g} s{heard}: {_look(spec)}")
            if waited > 2 and not told:
                note("waiting for a worker")
                told = True
            time.sleep(0.2)


def _look(spec: Spec) -> str:
    if spec.kind == "address":
        return f"start some with `dask worker {spec.address}`"
    if spec.kind == "local":
        return "look at the memory and the processes of this machine"
    return f"look at {QUEUE[spec.kind]} and the jobs' logs; timeout = SECONDS in a .toml file waits longer"


def _require_kernreg(client: Client) -> None:
    """On every worker, of this version; a function of the standard library is asked, which they all have."""
    with asking():
        found = client.run(pkgutil.resolve_name, "kernreg:__version__", on_error="return")
    for address, version in found.items():
        if version != __version__:
            has = f"has kernreg {version}" if isinstance(version, str) else f"has none ({_line(version)})"
            raise KernregError(
                f"the worker {address} {has}: install kernreg {__version__} in the environment of the workers"
            )


class _Overheard(logging.Handler):
    """What Dask says while it works; str() is the last of it, for the end of a sentence."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last = self.submission = ""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = str(error or record.getMessage())
        self._last = _line(text)
        if error is not None and "non-zero exit code" in text:  # of the command that submits a job
            self.submission = _line(text.partition("stderr:")[2]) or self._last

    def __str__(self) -> str:
        return f" ({self._last})" if self._last else ""


@contextmanager
def _overheard() -> Iterator[_Overheard]:
    """The logs of Dask and of what it is built on, away from the screen."""
    heard, talkers = _Overheard(), re.compile(r"(distributed|tornado|asyncio|bokeh)(\.|$)")
    before = []
    for logger in [
        logging.getLogger(name) for name in tuple(logging.root.manager.loggerDict) if talkers.match(name)
    ]:
        before.append((logger, logger.handlers, logger.propagate))
        logger.handlers, logger.propagate = [heard], False
    try:
        yield heard
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise KernregError(f"--cluster needs Dask ({error}): pip install 'kernreg[cluster]'") from None


def _line(error: object) -> str:
    text = str(error).strip()
    return " ".join(text.split())[:200] if text else type(error).__name__

"""Faults of processes: they are killed, interrupted, and meet their time limit."""

from __future__ import annotations

import signal

from faults.catalogue import fault
from faults.scene import Scene


@fault("kill -9 at a random moment", weight=4)
def kill_at_a_moment(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGKILL)


@fault("kill -9 at a random step", weight=4)
def kill_at_a_step(scene: Scene) -> None:
    scene.lay()
    step = scene.rng.randint(1, scene.whole.steps)
    scene.note = f"step {step} of {scene.whole.steps}"
    scene.play(step=step)


@fault("kill -9, again and again")
def kill_often(scene: Scene) -> None:
    scene.lay()
    for _ in range(scene.rng.randint(2, 5)):
        scene.play(step=scene.rng.randint(1, max(2, scene.whole.steps // 3)))


@fault("kill -9 of a fresh interpreter", jobs=("fresh",))
def kill_fresh(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGKILL)


@fault("Ctrl-C", weight=2)
def interrupt(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGINT)


@fault("SIGTERM", weight=2)
def terminate(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGTERM)


@fault("SIGTERM or Ctrl-C of a fresh interpreter", jobs=("fresh",), weight=2)
def signal_fresh(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, scene.rng.choice((signal.SIGINT, signal.SIGTERM)))


@fault("Ctrl-C twice")
def interrupt_twice(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGINT, signal.SIGINT)


@fault("time limit: SIGTERM, then kill -9", weight=2)
def time_limit(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGTERM, signal.SIGKILL)


def _signal_at_a_moment(scene: Scene, *signals: signal.Signals) -> None:
    running, moment = scene.start(), scene.moment()
    if scene.job.fresh and signal.SIGINT in signals:
        running.wait_for_kernreg()
    scene.note = f"after {moment:.3f} s of {scene.whole.seconds:.3f}"
    if not running.wait(moment):
        for number in signals:
            running.signal(number)
            scene.wait(scene.rng.uniform(0, 0.03))
    scene.ended.append(running.finish())

"""Faults: real commands are killed, starved, misled and their files damaged; then an oracle says what became of them.

`catalogue` has the faults by name, `jobs` the commands that suffer them, `oracle` the judgement, and `campaign` draws faults
from a seed and counts. `benchmarks/faults.py` is the long version; docs/reliability.md says what came out.
"""

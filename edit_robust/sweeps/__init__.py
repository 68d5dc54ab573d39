"""Many jobs on what processors and GPUs there are: who runs what where, what is done again, and what came of it.

`schedule` hands jobs to a pool and takes back what became of them; `processes`, `submitted` and `on_ray` are the pools.
None of them knows what a job is about: they call it. `journal` keeps what became of a sweep's jobs, `found` finds its
runs again, `collect` writes their records into one file, `search` lets Optuna choose what to try next.
"""

"""Ranks: a stage that wants several starts itself again, on this host, as one job of Slurm or of Kubernetes, and
watches over them.

    start       what a stage calls: checks, starts, watches, tells how it ended
    agent       on each host: torch.distributed.run over its ranks
    slurm       a job for several hosts: submitted, followed, cancelled with its caller
    kubernetes  the same as a Job of Kubernetes, or a JobSet
    attempts    what these two share
    rank        what each rank does around the stage's body: named lines, a pulse, a report of its failure
    pulse       what a rank is at and since when, in a file a second; watch reads them
    fence       of two attempts at one stage the newer one alone writes
    setup       wrong set-ups, found before any work

Torch is imported by the agent and the ranks alone. Nothing in here changes a result.
"""

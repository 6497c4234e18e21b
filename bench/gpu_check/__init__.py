"""What this software does on one CUDA card, found out by one command in eight minutes: `make gpu-check`.

    python -m bench.gpu_check.bundle --to .gpu-check             # here: wheels and tiny data, under 60 MiB
    python -m bench.gpu_check --bundle .gpu-check --out results  # there: no network needed

Each part is a process with a time limit: one that fails, or hangs, costs the others nothing. A part prints rows as it
finds them (`told.tell`), so that what it had found stays when it is stopped.
"""

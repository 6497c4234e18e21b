"""A team's servers and workers on one machine, without containers: `make up`, `make down` (docs/stack.md).

PostgreSQL, an S3 store (SeaweedFS), MLflow and Prefect servers, a bare repository and workers in clones of their own:
all in one folder, on loopback, with keys made once.
"""

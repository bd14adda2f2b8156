"""Bytes, schemas and manifests: everything the project keeps on disk. Knows nothing of torch,
Prefect or models.
"""

"""Environments stepped as a batch: the fast path for MuJoCo, gymnasium for everything else."""

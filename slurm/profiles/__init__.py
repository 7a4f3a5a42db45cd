"""Profiles to copy: a CPU, a GPU and a pre-emptible partition."""

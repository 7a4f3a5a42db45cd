"""The sweeps that the suite ships, one TOML file each."""

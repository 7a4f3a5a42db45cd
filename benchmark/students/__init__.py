"""Students: networks, policy heads and behavioural cloning, for many at once."""

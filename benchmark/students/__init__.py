"""Students: networks, policy heads and behavioural cloning, several students at once."""

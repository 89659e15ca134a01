"""What all systems share: contracts, the jitted step, sharding, checkpoints."""

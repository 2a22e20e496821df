"""The fleet: limits, money and cooldowns that several processes share through a store."""

"""Images -> shards, databases, neighbor tables, latents; and their upkeep."""

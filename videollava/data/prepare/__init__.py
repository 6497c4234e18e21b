"""From fetched sources to shards, and from all shards to one index."""

"""What training reads: packs, batches, shards wherever they lie."""

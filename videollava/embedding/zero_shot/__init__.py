"""Zero-shot benchmarks as such: what there are, how their files lie, what is in them."""

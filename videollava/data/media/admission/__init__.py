"""What is let in: media that strangers give are recognised, measured and fetched here, before a decoder sees them."""

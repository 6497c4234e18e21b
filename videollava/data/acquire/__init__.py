"""How a source is had: addresses, downloads, what is made here."""

"""What training will take, before it is begun: `outlook` on given devices, `scale` on ever more of them."""

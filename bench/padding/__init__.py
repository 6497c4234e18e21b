"""Parts of bench/training.py: samples of the paper's mix, the model both ways, and batches both ways."""

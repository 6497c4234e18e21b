"""Zero-shot evaluation of encoders: official layouts, figures with intervals, the paper beside them."""

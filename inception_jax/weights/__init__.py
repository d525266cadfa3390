"""Published weights: what there is."""

"""`make demo`: FitServe's whole job on real data, with every figure checked."""

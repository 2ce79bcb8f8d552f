"""What runs in a training process: reads a spec and a dataset, writes a model version, reports its progress."""

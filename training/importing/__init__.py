"""Makes versions of models that were trained elsewhere."""

"""Everything around a model's life: data, training, evaluation, registry, promotion, the local stack, `csr`."""

"""Networks and the products, kernels and optimisers they are made of."""

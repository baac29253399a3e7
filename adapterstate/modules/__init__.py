"""What adapters are on torch modules: their methods, their weights, and the classes that compute with them."""
